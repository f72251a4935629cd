from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmkit.errors import DataError
from lmkit.tasks.mmlu import MMLU

ROW = {"question": "2+2?", "subject": "sums", "choices": ["3", "4", "5", "6"], "answer": 1}


def task_of(folder: Path, **changes: Any) -> MMLU:
    (folder / "rows.jsonl").write_text(json.dumps(ROW | changes))
    return MMLU(str(folder / "rows.jsonl"))


@pytest.mark.parametrize("answer", [1, "B"])
def test_a_row_is_a_question_of_letters(tmp_path: Path, answer: int | str) -> None:
    task = task_of(tmp_path, answer=answer)
    (problem,) = task.problems("all")
    assert problem.messages[0].text.startswith("2+2?\n- 3=A\n- 4=B\n- 5=C\n- 6=D\n")
    assert (problem.choices, problem.correct, problem.chance) == (tuple("ABCD"), 1, 0.25)
    assert (task.kind, task.name) == ("letters", "mmlu")
    (document,) = task.documents("all")
    assert document.messages[-1].text == "B"


@pytest.mark.parametrize(
    "changes",
    [{"answer": None}, {"answer": 4}, {"answer": "E"}, {"answer": ""}, {"choices": "3, 4"},
     {"choices": ["3"]}, {"question": ""}],
)  # fmt: skip
def test_a_row_without_an_answer(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: "):
        task_of(tmp_path, **changes).problems("train")


def test_other_exams_are_trained_on() -> None:
    assert MMLU().describe().startswith("MMLU: auxiliary_train of mmlu")
