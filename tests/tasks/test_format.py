"""Answers in a given form: JSON, a list, a number a line, one word."""

from __future__ import annotations

import json

import pytest

from lmkit.errors import ConfigError
from lmkit.evals.task import Problem
from lmkit.prompts import Completion, Message
from lmkit.tasks.format import Format


def score(answer: str, text: str) -> float:
    problem = Problem((Message("user", "?"),), answer=answer)
    return Format().score(problem, Completion("", text, (), "stop"))


def test_a_json_object_has_the_keys_and_values_of_the_question() -> None:
    sizes = set()
    for problem in Format(["json"]).problems("train")[:60]:
        values = json.loads(problem.answer)
        told = ", ".join(f"{key} is {value}" for key, value in values.items())
        assert problem.messages[0].text == f"Write as a JSON object: {told}."
        assert all(
            isinstance(value, int) == (key in "age count year price")
            for key, value in values.items()
        )
        sizes.add(len(values))
    assert sizes == {1, 2, 3, 4}


def test_a_list_has_the_items_of_the_question() -> None:
    for problem in Format(["list", "numbered"]).problems("train")[:40]:
        question, items = problem.messages[0].text.removesuffix(".").split(": ")
        lines = [line.split(" ") for line in problem.answer.split("\n")]
        assert [item for _, item in lines] == items.split(", ")
        marks = [mark for mark, _ in lines]
        if question.startswith("Number"):
            assert marks == [f"{number}." for number in range(1, len(lines) + 1)]
        else:
            assert set(marks) == {"-"}


def test_yes_and_no_are_true_and_as_frequent() -> None:
    problems = Format(["yes_no"]).problems("train")[:200]
    for problem in problems:
        _, word, *_, letter = problem.messages[0].text.partition("?")[0].split()
        assert (problem.answer == "yes") == (word[0] == letter)
    assert 70 < sum(problem.answer == "yes" for problem in problems) < 130


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"name": "Mia", "age": 7}', 1.0),
        (' {"age":7,\n"name":"Mia"} ', 1.0),
        ('{"name": "Mia", "age": "7"}', 0.0),
        ('{"name": "Mia", "age": 7, "year": 1}', 0.0),
        ('{"name": "Mia"}', 0.0),
        ('Here it is: {"name": "Mia", "age": 7}', 0.0),
        ('{"name": "Mia", "age": 7', 0.0),
        ("[" * 100_000, 0.0),
        ("name is Mia", 0.0),
    ],
)
def test_json_is_compared_by_what_it_says(text: str, right: float) -> None:
    assert score('{"name": "Mia", "age": 7}', text) == right


def test_true_is_not_1() -> None:
    assert score('{"age": 1}', '{"age": true}') == 0.0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("- owl\n- fox", 1.0),
        (" - owl \n - fox\n\n", 1.0),
        ("- fox\n- owl", 0.0),
        ("- owl, - fox", 0.0),
        ("- owl\n\n- fox", 0.0),
        ("owl\nfox", 0.0),
    ],
)
def test_a_list_is_compared_by_lines(text: str, right: float) -> None:
    assert score("- owl\n- fox", text) == right


@pytest.mark.parametrize(
    ("text", "right"), [("yes", 1.0), ("Yes.\n", 1.0), ("Yes, it does.", 0.0), ("no", 0.0)]
)
def test_one_word_is_one_word(text: str, right: float) -> None:
    assert score("yes", text) == right


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="kinds has no 'jsn'; did you mean 'json'?"):
        Format(["jsn"])
    with pytest.raises(ConfigError, match="length is 9; an answer has 1 to 8 parts"):
        Format(length=9)
