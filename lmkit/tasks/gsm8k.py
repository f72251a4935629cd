"""gsm8k: word problems of school mathematics, solved in steps, with the calculator.

Cobbe et al., arXiv 2110.14168; 7,473 to train on, 1,319 measured. A row is `{question, answer}`:

    Natalia sold 48/2 = <<48/2=24>>24 clips in May.
    Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.
    #### 72

What stands in `<<...>>` becomes a call of the calculator and what it gives back: of all 23,716
calls in the training file the same number, 3 % in another spelling (8 for 8.00).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from lmkit.errors import DataError
from lmkit.evals.task import Problem
from lmkit.inference.tools import calculate
from lmkit.prompts import Completion, Message, Part
from lmkit.tasks.tables import TableTask, column

MARK = "####"  # stands before the final answer
_CALL = re.compile(r"<<([^<>]*)=([^<>=]*)>>")
_NUMBER = re.compile(
    r"(?:(?<![\d)])-)?"  # behind a number a minus is no sign: 10-3
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)",
    re.ASCII,
)


class GSM8K(TableTask):
    """A question, the steps of its solution, and `#### 72` at the end.

    Args:
        path: JSON lines or Parquet files; without it the published ones.
        test: files with problems to be measured on; `path` then has those to train on. A question
            that is in both is measured only.
        holdout: without `test` the share of `path` to be measured on, by each question's sha256.
        tools: the solutions call the calculator; if not, the annotations are left out.
        max_new_tokens: an answer's length at most.
        name: in tables and metrics, where one class is used twice.
        folder: the YAML's folder, where relative paths are looked up first.
    """

    name = "gsm8k"
    corpus = "gsm8k"
    parts = ("train", "test")

    def __init__(
        self,
        path: str | list[str] | None = None,
        test: str | list[str] | None = None,
        *,
        holdout: float = 0.05,
        tools: bool = True,
        max_new_tokens: int = 512,
        name: str | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__(path, test, holdout=holdout, name=name, folder=folder)
        self.tools = tools
        self.max_new_tokens = max_new_tokens

    def settings(self) -> dict[str, Any]:
        return {"tools": self.tools}

    def problem(self, row: Mapping[str, Any], at: str) -> Problem:
        solution = column(row, "answer", str, at)
        final = final_number(solution) if MARK in solution else None
        if final is None:
            said = f"the answer does not end with {MARK!r} and a number"
            raise DataError(said, hint=f"such as '{MARK} 72'", at=at)
        parts = tuple(_parts(solution))
        return Problem(
            messages=(Message("user", column(row, "question", str, at)),),
            solution=Message("assistant", parts if self.tools else _spoken(parts)),
            answer=str(final),
            at=at,
        )

    def score(self, problem: Problem, completion: Completion) -> float:
        """1 if the final number of the answer is the right one, else 0."""
        return float(final_number(completion.text) == Decimal(problem.answer))


def final_number(text: str) -> Decimal | None:
    """What a solution comes to: the first number after the last `####`, or without such a mark the
    last number; None if there is none. `$1,234.50` is 1234.5."""
    _, mark, rest = text.replace("$", "").rpartition(MARK)
    numbers = _NUMBER.findall(rest)
    if not numbers:
        return None
    return Decimal(numbers[0 if mark else -1].replace(",", ""))


def _parts(solution: str) -> Iterator[Part]:
    """Text and calls in turn, as they stand there."""
    at = 0
    for call in _CALL.finditer(solution):
        if call.start() > at:
            yield Part("text", solution[at : call.start()])
        yield Part("python", call[1])
        yield Part("python_output", calculate(call[1]) or call[2])
        at = call.end()
    yield Part("text", solution[at:])


def _spoken(parts: tuple[Part, ...]) -> str:
    return Message("assistant", parts).text
