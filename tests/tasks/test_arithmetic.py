"""Sums, differences and products: what is asked, how it is solved, which number counts."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkit.data.holdout import is_held_out
from lmkit.errors import ConfigError
from lmkit.prompts import Completion, Part
from lmkit.tasks.arithmetic import APPLY, WORDINGS, Arithmetic, by_places, last_number
from lmkit.tasks.generated import HOLDOUT


def said(text: str) -> Completion:
    return Completion("", text, (), "stop")


def test_with_tools_the_solution_asks_the_calculator() -> None:
    problem = Arithmetic("+").problems("train")[0]
    call, output, text = problem.solution.parts
    assert (call.type, output.type, text.type) == ("python", "python_output", "text")
    assert output.text == problem.answer
    assert text.text == f"{call.text} = {output.text}"


def test_without_tools_it_is_known_by_heart() -> None:
    problem = Arithmetic("+", tools=False, answer="number").problems("train")[0]
    assert problem.solution.parts == (Part("text", problem.answer),)


def test_mixed_tools_are_about_half() -> None:
    problems = Arithmetic(tools="mixed").problems("train")[:400]
    calls = sum(len(problem.solution.parts) > 1 for problem in problems)
    assert 150 < calls < 250


def test_the_same_number_is_asked_with_and_without_tools() -> None:
    by_heart, asked = Arithmetic(tools=False).problems("train"), Arithmetic().problems("train")
    assert [problem.messages for problem in by_heart[:9]] == [
        problem.messages for problem in asked[:9]
    ]


@pytest.mark.parametrize(("digits", "lengths"), [(2, {1, 2}), ([3], {3}), ([1, 1, 4], {1, 4})])
def test_numbers_are_as_long_as_digits_says(digits: int | list[int], lengths: set[int]) -> None:
    problems = Arithmetic("+", digits=digits).problems("train")[:100]
    numbers = [re.findall(r"\d+", problem.messages[0].text) for problem in problems]
    assert {len(number) for pair in numbers for number in pair} == lengths


def test_a_length_named_twice_comes_twice_as_often() -> None:
    problems = Arithmetic("+", digits=[1, 1, 3]).problems("train")[:300]
    text = " ".join(problem.messages[0].text for problem in problems)
    short, long = len(re.findall(r"\b\d\b", text)), len(re.findall(r"\b\d{3}\b", text))
    assert 1.5 < short / long < 2.7


def test_a_difference_is_never_below_0() -> None:
    problems = Arithmetic("-").problems("train")[:200]
    assert all(int(problem.answer) >= 0 for problem in problems)


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("operation", APPLY)
def test_every_wording_names_both_numbers(wording: str, operation: str) -> None:
    asked = set()
    for problem in Arithmetic(operation, wordings=[wording], digits=[3]).problems("train")[:100]:
        first, second = map(int, re.findall(r"\d+", problem.messages[0].text))
        if "Subtract" in problem.messages[0].text:
            first, second = second, first
        assert APPLY[operation](first, second) == int(problem.answer)
        asked.add(
            re.sub(r"\d+|\b[A-Z]\w+ (?=walks|cuts|takes|wants)", "", problem.messages[0].text)
        )
    assert len(asked) == len(WORDINGS[wording][operation])


def test_steps_go_by_places() -> None:
    assert list(by_places(47, "+", 58)) == ["47 + 50 = 97", "97 + 8 = 105"]
    assert list(by_places(12, "*", 34)) == ["12 * 30 = 360", "12 * 4 = 48", "360 + 48 = 408"]
    assert list(by_places(520, "-", 107)) == ["520 - 100 = 420", "420 - 7 = 413"]
    assert list(by_places(5, "+", 8)) == []


@given(st.integers(0, 9999), st.sampled_from("+-*"), st.integers(0, 9999))
def test_every_step_is_right_and_leads_to_the_result(a: int, symbol: str, b: int) -> None:
    steps = list(by_places(a, symbol, b))
    for step in steps:
        left, operation, right, _, result = step.split()
        assert APPLY[operation](int(left), int(right)) == int(result)
    if steps:
        assert steps[-1].endswith(f"= {APPLY[symbol](a, b)}")


def test_steps_come_before_the_answer() -> None:
    problem = Arithmetic("*", digits=[2], tools=False, steps=True).problems("train")[0]
    *steps, last = problem.solution.text.split("\n")
    assert last.endswith(f"= {problem.answer}")
    assert len(steps) in (0, 3)


@pytest.mark.parametrize("tools", [False, "mixed"])
def test_no_step_of_what_is_trained_is_a_held_out_problem(tools: bool | str) -> None:
    told = {"digits": [1, 2, 3], "tools": tools, "steps": True, "train": 300}
    task, seen = Arithmetic(**told), 0
    for problem in task.problems("train"):
        for content in task.shown(problem):
            seen += 1
            assert not is_held_out(repr(content), HOLDOUT)
    assert seen > 100
    measured = Arithmetic(**told).problems("validation")[:300]
    shown = [content for problem in measured for content in task.shown(problem)]
    assert any(is_held_out(repr(content), HOLDOUT) for content in shown)


def test_steps_are_other_problems_than_they_were_and_all_else_is_the_same() -> None:
    assert (Arithmetic(tools=False).version, Arithmetic(tools=False, steps=True).version) == (1, 2)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("23 + 45 = 68", "68"),
        ("It is 68.", "68"),
        ("68.0", "68"),
        ("1,234,567 km", "1234567"),
        ("1,2345", "2345"),
        ("1, 2, 3", "3"),
        ("= -22", "-22"),
        ("=\u221222", "-22"),
        ("10-3", "3"),
        ("(4)-3", "3"),
        ("from 5 to .5", "0.5"),
        ("$3.50!", "3.5"),
        ("none", None),
        ("", None),
        ("\u0663", None),  # an Arabic 3 is no number here
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


@given(st.text(max_size=60))
def test_any_text_can_be_read(text: str) -> None:
    last_number(text)


@given(st.integers(-(10**12), 10**12))
def test_a_number_is_read_as_it_is_written(number: int) -> None:
    assert last_number(f"The answer is {number:,}.") == number
    assert last_number(f"1 + 1 = {number}") == number


def test_the_last_number_decides() -> None:
    task = Arithmetic()
    problem = task.problems("train")[0]
    assert task.score(problem, said(f"3 and then {problem.answer}")) == 1.0
    assert task.score(problem, said(f"{problem.answer} and then 123456")) == 0.0


@pytest.mark.parametrize(
    ("arguments", "what", "key"),
    [
        ({"operations": "+/"}, "operations has no '/'; there are", "operations"),
        ({"operations": ""}, "operations is empty", "operations"),
        ({"digits": 0}, "digits is 0; numbers have 1 to 9", "digits"),
        ({"digits": [2, 12]}, "digits is", "digits"),
        ({"digits": []}, "digits is", "digits"),
        ({"wordings": ["storry"]}, "did you mean 'story'", "wordings"),
        ({"steps": True}, "steps and the calculator; write tools: false", "steps"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict, what: str, key: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(what)) as caught:
        Arithmetic(**arguments)
    assert caught.value.key == key
