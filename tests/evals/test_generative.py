from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkit.evals import Problem
from lmkit.evals.generative import pass_at_k, write_answers
from lmkit.inference import Sampling
from lmkit.prompts import Message

PROBLEMS = [(number, Problem((Message("user", "q" * number),))) for number in range(1, 5)]
DRAWN = Sampling(temperature=1.0, max_new_tokens=4)


@given(st.data())
def test_pass_at_k_is_the_share_of_lucky_hands(data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 7))
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    hands = list(combinations([True] * right + [False] * (samples - right), k))
    assert pass_at_k(right, samples, k) == pytest.approx(sum(map(any, hands)) / len(hands))


def test_an_answer_each_to_every_problem(rule: Any) -> None:
    model = rule({"q" * number: {str(number): 1.0} for number in range(1, 5)})
    answers = write_answers(model, PROBLEMS, Sampling())
    assert [[each.text for each in of_one] for of_one in answers] == [["1"], ["2"], ["3"], ["4"]]


def test_a_sample_depends_on_the_seed_the_problem_and_its_number_only(rule: Any) -> None:
    model = rule({"q" * n: {digit: 0.1 for digit in "0123456789"} for n in range(1, 5)})
    texts = [[each.text for each in of] for of in write_answers(model, PROBLEMS, DRAWN, 5)]
    assert len({tuple(of_one) for of_one in texts}) == 4
    fewer = write_answers(model, PROBLEMS[2:], DRAWN, 3)
    assert [[each.text for each in of_one] for of_one in fewer] == [of[:3] for of in texts[2:]]
