"""humaneval: Python functions to be written from their docstring, tried by running their tests.

Chen et al., arXiv 2107.03374; 164 problems, all of them measured, none to train on. The model is
asked as an assistant, as in nanochat: the beginning of the function is the user's message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lmkit.errors import DataError
from lmkit.evals.execution import Limits, Verdict, run_tests
from lmkit.evals.task import Problem
from lmkit.prompts import Completion, Message
from lmkit.tasks.tables import TableTask, column

_BLOCK = re.compile(
    r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL
)
_PYTHON = ("", "python", "python3", "py")


class HumanEval(TableTask):
    """Rows `{task_id, prompt, canonical_solution, test, entry_point}`.

    The score is 1 if all tests of a problem hold. They are run on this machine, by a program of the
    model's: see `lmkit.evals.execution` for what that is kept from, and for what it is not.

    Args:
        path: JSON lines (`.jsonl`, `.jsonl.gz`) or Parquet files; without it the published one.
        cpu_seconds: of processor time that a program has for all tests of its problem.
        memory_mb: in MiB, that a program has.
        max_new_tokens: an answer's length at most.
        name: in tables and metrics, where one class is used twice.
        folder: the YAML's folder, where relative paths are looked up first.
    """

    name = "humaneval"
    corpus = "humaneval"
    parts = ("test", "test")  # what is measured is taken from what is trained on: nothing is left

    def __init__(
        self,
        path: str | list[str] | None = None,
        *,
        cpu_seconds: int = 5,
        memory_mb: int = 512,
        max_new_tokens: int = 512,
        name: str | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__(path, path, name=name, folder=folder)
        self.limits = Limits(
            cpu_seconds=cpu_seconds, wall_seconds=3.0 * cpu_seconds, memory_bytes=memory_mb * 2**20
        )
        self.max_new_tokens = max_new_tokens

    def problem(self, row: Mapping[str, Any], at: str) -> Problem:
        prompt, solution, test, entry_point = (
            column(row, name, str, at)
            for name in ("prompt", "canonical_solution", "test", "entry_point")
        )
        if not _defines(prompt, entry_point):
            raise DataError(f"the prompt does not begin the function {entry_point!r}", at=at)
        tests = f"{test}\n\ncheck({entry_point})\n"
        return Problem(
            messages=(Message("user", prompt),),
            solution=Message("assistant", prompt + solution),
            answer=json.dumps({"entry_point": entry_point, "tests": tests}),
            at=at,
        )

    def score(self, problem: Problem, completion: Completion) -> float:
        """1 if what the answer defines passes the tests, else 0."""
        return float(self.verdict(problem, completion.text).status == "passed")

    def verdict(self, problem: Problem, text: str) -> Verdict:
        """How the program in an answer did, and why."""
        answer = json.loads(problem.answer)
        prompt = problem.messages[-1].text
        program = code_in(text)
        if not _defines(program, answer["entry_point"]):
            program = prompt + program  # the answer goes on where the prompt ends
        return run_tests(
            program, answer["tests"], answer["entry_point"], setup=prompt, limits=self.limits
        )

    def describe(self) -> str:
        return f"HumanEval: {self._files[-1]}"


def code_in(text: str) -> str:
    """The first block of Python between ``` and ```, to the end if it is not closed; else all."""
    blocks = (match[2] for match in _BLOCK.finditer(text) if match[1].lower() in _PYTHON)
    return next(blocks, text)


def _defines(program: str, name: str) -> bool:
    return re.search(rf"^def {re.escape(name)}\b", program, re.MULTILINE) is not None
