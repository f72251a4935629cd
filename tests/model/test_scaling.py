"""The laws of horizon and batch, at points that were worked out with nanochat's own code."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.model.scaling import (
    REFERENCE_BATCH,
    REFERENCE_PARAMETERS,
    REFERENCE_TOKENS,
    best_batch,
    best_batch_for_steps,
    best_tokens,
    power_of_two,
)


def test_the_reference_is_a_fixed_point() -> None:
    assert best_tokens(REFERENCE_PARAMETERS) == REFERENCE_TOKENS == 1_321_210_944
    assert best_batch(REFERENCE_TOKENS) == REFERENCE_BATCH == 2**19
    steps = REFERENCE_TOKENS // REFERENCE_BATCH
    assert best_batch_for_steps(steps) == pytest.approx(2**19, rel=1e-4)


@settings(max_examples=50)
@given(st.integers(1, 10**7))
def test_a_training_of_so_many_steps_has_the_batch_that_its_tokens_want(steps: int) -> None:
    batch = best_batch_for_steps(steps)
    assert best_batch(steps * batch) == pytest.approx(batch)


@settings(max_examples=50)
@given(st.floats(1, 1e12))
def test_the_nearest_power_of_two(number: float) -> None:
    found = power_of_two(number)
    assert found.bit_count() == 1
    assert abs(math.log2(found / number)) <= 0.5 + 1e-9
