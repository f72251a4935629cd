from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmkit.errors import DataError
from lmkit.tasks.arc import ArcChallenge, ArcEasy

ROW = {
    "id": "x1",
    "question": "What melts?",
    "choices": {"text": ["ice", "fire", "air"], "label": ["A", "B", "C"]},
    "answerKey": "A",
}


def task_of(folder: Path, **changes: Any) -> ArcEasy:
    (folder / "rows.jsonl").write_text(json.dumps(ROW | changes))
    return ArcEasy(str(folder / "rows.jsonl"))


def test_a_row_is_a_question_of_letters(tmp_path: Path) -> None:
    (problem,) = task_of(tmp_path).problems("all")
    assert problem.messages[0].text.startswith("What melts?\n- ice=A\n- fire=B\n- air=C\n")
    assert (problem.choices, problem.correct) == (("A", "B", "C"), 0)


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    choices = {"text": ["ice", "fire", "air"], "label": ["1", "2", "3"]}
    (problem,) = task_of(tmp_path, choices=choices, answerKey="3").problems("all")
    assert (problem.choices, problem.answer) == (("A", "B", "C"), "C")


def test_an_easy_and_a_hard_set() -> None:
    for task, name in ((ArcEasy(), "easy"), (ArcChallenge(), "challenge")):
        assert task.name == f"arc_{name}"
        assert f"{name}_train of arc" in task.describe()
        assert f"{name}_test of arc" in task.describe()


@pytest.mark.parametrize(
    "changes",
    [{"answerKey": "D"}, {"answerKey": None}, {"choices": ["ice", "fire"]}, {"choices": {}},
     {"choices": {"text": ["ice"], "label": ["A", "B"]}}],
)  # fmt: skip
def test_a_row_without_an_answer(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: "):
        task_of(tmp_path, **changes).problems("train")
