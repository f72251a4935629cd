from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lmkit.errors import DataError
from lmkit.evals.suite import evaluate_task
from lmkit.evals.task import Problem
from lmkit.model import LMBase
from lmkit.prompts import Completion
from lmkit.tasks.humaneval import HumanEval, code_in
from lmkit.text import Byte

PROMPT = '''from typing import List


def twice(x: int) -> int:
    """Helper: two times x."""
    return 2 * x


def total(numbers: List[int]) -> int:
    """ The sum of the doubled numbers.
    >>> total([1, 2])
    6
    """
'''
BODY = "    return sum(twice(n) for n in numbers)\n"
TEST = """

METADATA = {'author': 'us'}


def check(candidate):
    assert candidate([]) == 0
    assert candidate([1, 2]) == twice(3)
    assert total([5]) == 10
"""
ROW = {
    "task_id": "Test/0",
    "prompt": PROMPT,
    "canonical_solution": BODY,
    "test": TEST,
    "entry_point": "total",
}
SECOND = ROW | {"task_id": "Test/1", "prompt": PROMPT.replace("sum of", "sum over")}


def write(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "problems.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return str(path)


@pytest.fixture
def task(tmp_path: Path) -> HumanEval:
    return HumanEval(write(tmp_path, ROW, SECOND), cpu_seconds=30)


@pytest.fixture
def problem(task: HumanEval) -> Problem:
    return task.problems("validation")[0]


def said(text: str) -> Completion:
    return Completion("", text, (), "stop")


def test_all_is_measured_and_nothing_trained_on(task: HumanEval) -> None:
    assert len(task.problems("validation")) == 2
    assert list(task.problems("train")) == []
    assert list(task.documents("train")) == []
    assert task.problems("all") == task.problems("validation")
    assert "problems.jsonl.gz" in task.describe()
    assert "\n" not in task.describe()


def test_a_problem_is_asked_as_the_users_message(problem: Problem) -> None:
    (message,) = problem.messages
    assert message.role == "user"
    assert message.text.startswith("from typing import List")
    assert problem.at.endswith((".gz:1", ".gz:2"))


def test_the_solution_scores_1(task: HumanEval) -> None:
    for problem in task.problems("validation"):
        assert problem.solution is not None
        assert task.score(problem, said(problem.solution.text)) == 1.0


WHOLE = "def total(numbers):\n    return sum(map(twice, numbers))\n"


@pytest.mark.parametrize(
    "text",
    [
        f"Here it is:\n\n```python\n{WHOLE}```\nIt adds.",
        f"```py\n{WHOLE}",  # cut before its end
        WHOLE,
        BODY,  # goes on where the prompt ends
        f"```\n{BODY}```",
        f"from __future__ import annotations\n{WHOLE}",
    ],
)
def test_an_answer_in_any_of_these_forms_scores_1(
    task: HumanEval, problem: Problem, text: str
) -> None:
    assert task.verdict(problem, text).reason == ""
    assert task.score(problem, said(text)) == 1.0


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        (
            "def total(numbers):\n    return sum(numbers)\n",
            "failed",
            "candidate([1, 2]) == twice(3)",
        ),
        ("    pass\n", "failed", "assert candidate([]) == 0"),
        ("", "failed", "assert candidate([]) == 0"),
        ("I cannot do that.", "error", "SyntaxError"),
        ("import sys\nsys.exit(0)\n" + WHOLE, "error", "SystemExit"),
        ("    return total(numbers)\n", "error", "RecursionError"),
    ],
)
def test_another_answer_scores_0(
    task: HumanEval, problem: Problem, text: str, status: str, reason: str
) -> None:
    verdict = task.verdict(problem, text)
    assert verdict.status == status
    assert reason in verdict.reason
    assert task.score(problem, said(text)) == 0.0


def test_limits_are_the_tasks_own(tmp_path: Path) -> None:
    task = HumanEval(write(tmp_path, ROW), cpu_seconds=60, memory_mb=200)
    hungry = "def total(numbers):\n    return bytearray(2**28)\n"
    if sys.platform != "darwin":
        assert task.verdict(task.problems("validation")[0], hungry).status == "memory"
    assert task.limits.memory_bytes == 200 * 2**20
    assert (task.limits.cpu_seconds, task.limits.wall_seconds) == (60, 180.0)


def test_the_first_block_of_python_is_taken() -> None:
    text = "```bash\npip install x\n```\nthen\n```Python\na = 1\n```\nor\n```python\nb = 2\n```\n"
    assert code_in(text) == "a = 1\n"
    assert code_in("```json\n{}\n```") == "```json\n{}\n```"
    assert code_in("plain") == "plain"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"test": None}, "'test' is None"),
        ({"entry_point": "other"}, "does not begin the function 'other'"),
        ({"canonical_solution": ""}, "'canonical_solution' is ''"),
    ],
)
def test_a_broken_row_is_told(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    task = HumanEval(write(tmp_path, ROW, ROW | changes))
    with pytest.raises(DataError, match=rf"problems.jsonl.gz:2: .*{what}"):
        task.problems("validation")


def test_the_suite_asks_and_scores_it(task: HumanEval) -> None:
    class Sure(LMBase):
        """Answers every prompt with the same text."""

        def __init__(self) -> None:
            super().__init__(tokenizer=Byte(), max_len=1024)

        def forward(self, tokens: Any) -> Any:
            raise NotImplementedError

        def generate(self, prompts: Any, *_: Any, **__: Any) -> Any:
            return [said(f"```python\n{WHOLE}```") for _ in prompts]

    result = evaluate_task(Sure(), task)
    assert (result.name, result.value, result.count, result.chance) == ("humaneval", 1.0, 2, 0.0)
