"""Who the assistant is: facts to questions, one wording held out, mistakes by their lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lmkit.config import build
from lmkit.errors import ConfigError, LMKitError
from lmkit.prompts import Completion
from lmkit.tasks.identity import SAYINGS, Facts, Identity

FULL = """\
name: Pip
maker: three friends
purpose: do sums.
model: a GPT
data: made-up sums
version: one
licence: MIT
languages: English
limits: see
home: the kitchen table
"""


def identity(folder: Path, text: str) -> Identity:
    (folder / "me.yaml").write_text(text, encoding="utf-8")
    return Identity("me.yaml", folder=str(folder))


def questions(task: Identity, split: str) -> set[str]:
    return {problem.messages[0].text for problem in task.problems(split)}  # type: ignore[arg-type]


def test_every_fact_is_trained_and_measured(tmp_path: Path) -> None:
    task = identity(tmp_path, FULL)
    for split in ("train", "validation"):
        said = {problem.solution.text for problem in task.problems(split)}  # type: ignore[arg-type]
        assert len(said) == len(SAYINGS)
        assert "I was made by three friends." in said
        assert "I am made to do sums." in said  # with one full stop


def test_every_fact_has_a_saying() -> None:
    assert {key for key, _, _ in SAYINGS} == set(Facts.__dataclass_fields__) - {"questions"}


def test_a_question_is_asked_with_a_greeting_and_in_haste(tmp_path: Path) -> None:
    asked = questions(identity(tmp_path, "name: Pip"), "all")
    assert {"Who are you?", "Hello! Who are you?", "who are you", "Tell me your name."} <= asked
    assert "Hello! Tell me your name." not in asked


def test_a_held_out_wording_is_held_out_in_every_form(tmp_path: Path) -> None:
    task = identity(tmp_path, FULL)

    def bare(split: str) -> set[str]:
        return {
            re.sub(r"^(Hello! |Hi! |One question: )|[?.!]$", "", each).lower()
            for each in questions(task, split)
        }

    assert not bare("train") & bare("validation")


def test_ones_own_questions_go_first(tmp_path: Path) -> None:
    text = "name: Pip\nquestions:\n- {question: 'who ARE you', answer: 'Pip, at your service.'}\n"
    task = identity(tmp_path, text)
    answers = {
        problem.solution.text
        for problem in task.problems("all")
        if "who are you" in problem.messages[0].text.lower()
    }
    assert answers == {"Pip, at your service."}
    assert "who are you" in questions(task, "train")  # the only wording is never held out
    assert task.problems("train")[0].at.endswith("me.yaml:3")


def test_the_fact_is_what_counts(tmp_path: Path) -> None:
    task = identity(
        tmp_path, "name: Pip Pop\nquestions:\n- {question: 'Six?', answer: It is 6., expects: '6'}"
    )
    own = task.problems("train")[0]
    (name, *_) = (problem for problem in task.problems("train") if problem.answer == "Pip Pop")

    def score(problem, text: str) -> float:
        return task.score(problem, Completion("", text, (), "stop"))

    assert score(own, "6, what else") == 1.0
    assert score(name, "My name is pip\n pop!") == 1.0
    assert score(name, "My name is Pip.") == 0.0


def test_other_facts_are_another_fingerprint(tmp_path: Path) -> None:
    first = identity(tmp_path, "name: Pip")
    again = identity(tmp_path, "name: Pip   # the same")
    assert (
        first.fingerprint() == again.fingerprint() != identity(tmp_path, "name: Pop").fingerprint()
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("name: Pip\nmakr: Ann", "me.yaml:2: facts takes no 'makr'; did you mean 'maker'?"),
        ("maker: Ann", "me.yaml:1: facts needs 'name'"),
        ("name: 7", "me.yaml:1: facts.name must be"),
        ("name: Pip\nmaker: ' '", "me.yaml:2: an empty fact, question or answer; leave it out"),
        (
            "name: Pip\nquestions:\n- {question: 'Who?'}",
            "me.yaml:3: facts.questions.0 needs 'answer'",
        ),
        (
            "name: Pip\nquestions:\n- {question: [], answer: A}",
            "me.yaml:3: an empty fact, question",
        ),
        (
            "name: Pip\nquestions:\n- {question: 'Who?', answer: A}\n- {question: who, answer: B}",
            "me.yaml:4: 'who' is asked twice; see",
        ),
        (
            "name: Pip\nquestions:\n- {question: 'Who?', answer: Ann., expects: Bob}",
            "me.yaml:3: the answer does not have 'Bob' in it",
        ),
        ("- name", "me.yaml"),
    ],
)
def test_a_mistake_in_the_file(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(LMKitError, match=re.escape(what)):
        identity(tmp_path, text)


def test_a_file_that_is_not_there_or_two(tmp_path: Path) -> None:
    with pytest.raises(LMKitError, match="no such file"):
        Identity("me.yaml", folder=str(tmp_path))
    (tmp_path / "a.yaml").write_text("name: A")
    (tmp_path / "b.yaml").write_text("name: B")
    with pytest.raises(LMKitError, match="2 files of facts; name one"):
        Identity("*.yaml", folder=str(tmp_path))


def test_facts_may_stand_in_the_experiment_itself() -> None:
    facts = {"name": "Pip", "data": "books"}
    inline = build({"class": "lmkit.tasks.identity.Identity", "facts": facts})
    answers = {problem.solution.text for problem in inline.problems("all") if problem.solution}
    assert {"I am Pip.", "I was trained on books."} <= answers
    with pytest.raises(ConfigError, match="did you mean 'name'"):
        build({"class": "lmkit.tasks.identity.Identity", "facts": {"nme": "Pip"}})
