"""Conversations of one's own: the shapes of a line, what counts as right, lines that are wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lmkit.errors import ConfigError, DataError
from lmkit.prompts import Completion
from lmkit.tasks.conversations import Conversations

USER = {"role": "user", "content": "Is 1 odd?"}
ANSWER = {"role": "assistant", "content": "Yes, 1 is."}
GOOD = {"messages": [USER, ANSWER]}


def write(folder: Path, *rows: Any, name: str = "chats.jsonl") -> str:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def numbered(*numbers: int) -> list[dict[str, str]]:
    return [{"prompt": f"What is {n} + 1?", "truth": f"It is {n + 1}."} for n in numbers]


def test_three_shapes_are_the_same_conversation(tmp_path: Path) -> None:
    rows = [GOOD, [USER, ANSWER], {"prompt": "Is 1 odd?", "truth": "Yes, 1 is.", "source": "me"}]
    problems = Conversations(write(tmp_path, *rows)).problems("all")
    assert problems[0] == problems[1] == problems[2]
    assert problems[0].solution.text == "Yes, 1 is."
    assert [problem.at.rpartition(":")[2] for problem in problems] == ["1", "2", "3"]


def test_several_turns_and_tools(tmp_path: Path) -> None:
    parts = [
        {"type": "python", "text": "6 * 7"},
        {"type": "python_output", "text": "42"},
        {"type": "text", "text": "It is 42."},
    ]
    system = {"role": "system", "content": "Be kind."}
    last = {"role": "assistant", "content": parts}
    path = write(tmp_path, {"messages": [system, USER, ANSWER, USER, last]})
    (problem,) = Conversations(path).problems("all")
    assert len(problem.messages) == 4
    assert problem.solution.parts[0].type == "python"
    assert problem.answer == "It is 42."


@pytest.mark.parametrize(
    ("match", "said", "right"),
    [
        ("exact", " it is\n42. ", 1.0),
        ("exact", "I say it is 42.", 0.0),
        ("contains", "I say it is 42.", 1.0),
        ("contains", "It is 41.", 0.0),
        ("number", "6 * 7 = 42.0", 1.0),
        ("number", "42 - 1 = 41", 0.0),
        ("number", "none", 0.0),
    ],
)
def test_what_is_right(tmp_path: Path, match: Any, said: str, right: float) -> None:
    path = write(tmp_path, {"prompt": "What is 6 times 7?", "truth": "It is 42."})
    task = Conversations(path, match=match)
    (problem,) = task.problems("all")
    assert task.score(problem, Completion("", said, (), "stop")) == right


def test_an_answer_beside_the_solution_is_what_counts(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "6 * 7?", "truth": "Let me see, 42 it is.", "answer": 42})
    task = Conversations(path, match="contains")
    (problem,) = task.problems("all")
    assert problem.answer == "42"
    assert task.score(problem, Completion("", "42!", (), "stop")) == 1.0


def test_a_question_with_two_answers_stays_on_one_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n % 20}?", "truth": f"A{n}."} for n in range(60)]
    task = Conversations(write(tmp_path, *rows), holdout=0.3)
    train, validation = ({p.messages for p in task.problems(s)} for s in ("train", "validation"))
    assert len(task.problems("all")) == 60
    assert train
    assert validation
    assert not train & validation


def test_of_a_few_one_is_held_out_and_of_one_none(tmp_path: Path) -> None:
    few = Conversations(write(tmp_path, *numbered(1, 2, 3)), holdout=0.01)
    assert (len(few.problems("train")), len(few.problems("validation"))) == (2, 1)
    one = Conversations(write(tmp_path, *numbered(1)))
    assert (len(one.problems("train")), len(one.problems("validation"))) == (1, 0)


def test_what_is_tested_is_not_trained(tmp_path: Path) -> None:
    train = write(tmp_path, *numbered(1, 2, 3), name="train.jsonl")
    test = write(tmp_path, *numbered(3, 4), name="test.jsonl")
    task = Conversations(train, test)
    assert [problem.answer for problem in task.problems("train")] == ["It is 2.", "It is 3."]
    assert [problem.answer for problem in task.problems("validation")] == ["It is 4.", "It is 5."]
    assert task.fingerprint() != Conversations(train).fingerprint()


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ('{"messages": [', "not JSON: "),
        ("\ufeff\u00e9", "not JSON: "),
        ('"text"', "a JSON str, not an object; write {messages: ...}"),
        ({"mesages": []}, "there is no 'messages'; did you mean 'mesages'?"),
        ({"prompt": "Who?"}, "there is no 'truth'; it has 'prompt'"),
        ({"prompt": "Who?", "truth": None}, "'truth' is missing"),
        ({"prompt": "Who?", "truth": ""}, "turn 2 is the assistant's and empty"),
        ({"messages": []}, "'messages' must be a list"),
        ({"messages": [USER]}, "the conversation has no answer; end it with a turn of the ass"),
        ({"messages": [USER, ANSWER, USER]}, "the conversation has no answer"),
        ({"messages": [ANSWER]}, "turn 1 is the assistant's"),
        ({"messages": [USER, USER, ANSWER]}, "turn 2 is the user's"),
        ({"messages": [USER, {"role": "asistant", "content": "A"}]}, "did you mean 'assistant'?"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "turn 2 is the assistant's"),
        (
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": [{"type": "python_output", "text": "1"}]},
                ]
            },
            "a tool's output without a call",
        ),
        ({**GOOD, "answer": True}, "'answer' is True; write a text or a number"),
        ({**GOOD, "answer": " "}, "the answer is ' '; write the text that match: exact looks for"),
    ],
)
def test_a_line_that_is_wrong(
    tmp_path: Path, row: Any, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, *numbered(1), "", row, *numbered(2))
    with pytest.raises(DataError) as caught:
        Conversations(path).problems("train")
    assert str(caught.value).startswith(f"{path}:3: ")
    assert what in str(caught.value)
    task = Conversations(path, on_error="skip")
    assert len(task.problems("all")) == 2
    assert task.skipped == 1
    assert "1 lines skipped" in task.describe()
    told = capsys.readouterr().err
    assert told == f"1 of 3 lines skipped, the first: {caught.value}\n"


def test_numbers_are_looked_for_where_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="chats.jsonl:1: the answer is 'Yes.'"):
        Conversations(write(tmp_path, {"prompt": "?", "truth": "Yes."}), match="number").problems(
            "all"
        )


def test_a_file_without_a_usable_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="chats.jsonl: no line with a problem"):
        Conversations(write(tmp_path, "")).problems("all")
    with pytest.raises(DataError, match="chats.jsonl: no line with a problem"):
        Conversations(write(tmp_path, "{"), on_error="skip").problems("all")


def test_a_damaged_file_is_not_skipped(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join(map(json.dumps, numbered(*range(500)))).encode())
    (tmp_path / "chats.jsonl.gz").write_bytes(whole[:-200])
    with pytest.raises(DataError, match="the compressed file is damaged"):
        Conversations(str(tmp_path / "chats.jsonl.gz"), on_error="skip").problems("all")


def test_a_missing_file(tmp_path: Path) -> None:
    task = Conversations("chats.jsonl", folder=str(tmp_path))
    assert not task.available()
    with pytest.raises(DataError, match="no such file"):
        task.problems("train")


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="on_error is 'ignore'; it is raise or skip"):
        Conversations("chats.jsonl", on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="match is 'near'; it is exact, contains or number"):
        Conversations("chats.jsonl", match="near")  # type: ignore[arg-type]
