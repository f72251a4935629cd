"""Phrases said again: what each kind asks, and that the score is to the letter."""

from __future__ import annotations

import pytest

from lmkit.errors import ConfigError
from lmkit.prompts import Completion
from lmkit.tasks.echo import WORDINGS, Echo


@pytest.mark.parametrize("kind", WORDINGS)
def test_what_a_kind_asks_for(kind: str) -> None:
    change = {
        "repeat": str,
        "upper": str.upper,
        "lower": str.lower,
        "reverse": lambda text: " ".join(reversed(text.split())),
    }[kind]
    wordings = set()
    for problem in Echo([kind]).problems("train")[:60]:
        wording, phrase = problem.messages[0].text.split(": ")
        assert problem.answer == problem.solution.text == change(phrase)
        wordings.add(f"{wording}: {{phrase}}")
    assert wordings == set(WORDINGS[kind])


def test_a_lower_case_answer_is_asked_for_in_upper_case() -> None:
    problem = Echo(["lower"]).problems("train")[0]
    assert problem.messages[0].text.endswith(problem.answer.upper())
    assert problem.answer != problem.answer.upper()


def test_phrases_are_of_every_length_up_to_the_longest() -> None:
    problems = Echo(["repeat"], length=3).problems("train")[:90]
    assert {len(problem.answer.split()) for problem in problems} == {1, 2, 3}


def test_only_white_space_around_the_answer_is_forgiven() -> None:
    task = Echo(["upper"])
    problem = task.problems("train")[0]

    def score(text: str) -> float:
        return task.score(problem, Completion("", text, (), "stop"))

    assert score(f" {problem.answer}\n") == 1.0
    assert score(problem.answer.lower()) == 0.0
    assert score(f"{problem.answer}.") == 0.0


@pytest.mark.parametrize("length", [0, -1, 1000])
def test_a_length_that_cannot_be(length: int) -> None:
    with pytest.raises(ConfigError, match="a phrase has 1 to 676 different words") as caught:
        Echo(length=length)
    assert caught.value.key == "length"
