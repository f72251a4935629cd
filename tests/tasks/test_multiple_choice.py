"""Questions with choices of one's own: three ways to name the right one, and wrong lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmkit.errors import ConfigError, DataError
from lmkit.prompts import Completion
from lmkit.tasks.multiple_choice import MultipleChoice

ROW = {"question": "Which is a fruit?", "choices": ["stone", "pear", "river"], "answer": "pear"}


def write(folder: Path, *rows: Any) -> str:
    (folder / "quiz.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "quiz.jsonl")


@pytest.mark.parametrize("answer", [1, "B", "b", " B ", "pear"])
def test_the_right_one_by_place_letter_or_text(tmp_path: Path, answer: Any) -> None:
    (problem,) = MultipleChoice(write(tmp_path, {**ROW, "answer": answer})).problems("all")
    assert problem.correct == 1
    assert problem.choices == ("A", "B", "C")
    assert problem.answer == problem.solution.text == "B"
    assert all(text in problem.messages[0].text for text in ROW["choices"])
    assert problem.chance == pytest.approx(1 / 3)


def test_the_text_of_a_choice_goes_before_its_letter(tmp_path: Path) -> None:
    row = {"question": "Which comes first?", "choices": ["B", "A"], "answer": "A"}
    (problem,) = MultipleChoice(write(tmp_path, row)).problems("all")
    assert problem.correct == 1


def test_choices_without_letters(tmp_path: Path) -> None:
    task = MultipleChoice(write(tmp_path, ROW), kind="choice")
    (problem,) = task.problems("all")
    assert task.kind == "choice"
    assert problem.messages[0].text == "Which is a fruit?"
    assert problem.choices == ("stone", "pear", "river")
    assert problem.solution.text == "pear"


@pytest.mark.parametrize(
    ("said", "right"), [("B", 1.0), (" b.\n", 1.0), ("C", 0.0), ("B or C", 0.0), ("", 0.0)]
)
def test_as_a_reward_the_letter_alone_counts(tmp_path: Path, said: str, right: float) -> None:
    task = MultipleChoice(write(tmp_path, ROW))
    (problem,) = task.problems("all")
    assert task.score(problem, Completion("", said, (), "stop")) == right


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"answer": 3}, "'answer' is 3, none of the 3 choices; write a place 0 ... 2, a letter A"),
        ({"answer": -1}, "'answer' is -1"),
        ({"answer": "D"}, "'answer' is 'D'"),
        ({"answer": True}, "'answer' is True"),
        ({"answer": None}, "'answer' is None"),
        ({"answer": "peer"}, "did you mean 'pear'?"),
        ({"choices": "stone"}, "'choices' is 'stone'; write two or more different texts"),
        ({"choices": ["pear", "pear"]}, "'choices' is ['pear', 'pear']"),
        ({"choices": [1, 2]}, "'choices' is [1, 2]"),
        ({"choices": ["pear"]}, "'choices' is ['pear']"),
        ({"choices": []}, "'choices' is []"),
        ({"choices": [str(n) for n in range(30)], "answer": 1}, "a question with 30 choices"),
        ({"question": ""}, "'question' is ''"),
    ],
)
def test_a_line_that_is_wrong(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    path = write(tmp_path, ROW, {**ROW, **change})
    with pytest.raises(DataError) as caught:
        MultipleChoice(path).problems("all")
    assert str(caught.value).startswith(f"{path}:2: ")
    assert what in str(caught.value)
    assert len(MultipleChoice(path, on_error="skip").problems("all")) == 1


@pytest.mark.parametrize("key", ROW)
def test_a_line_without_a_key(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, {name: value for name, value in ROW.items() if name != key})
    with pytest.raises(DataError, match=f"quiz.jsonl:1: there is no '{key}'; it has"):
        MultipleChoice(path).problems("all")


def test_an_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="kind is 'letter'; it is letters or choice"):
        MultipleChoice("quiz.jsonl", kind="letter")  # type: ignore[arg-type]
