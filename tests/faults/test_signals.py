"""Asked to stop, wherever it is, a run saves, leaves, and ends later on as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.conftest import count

Guards = Callable[[str, int], dict[str, Any]]


def test_anywhere_in_steps_evaluations_samples_and_rollouts(guards: Guards) -> None:
    found = guards("signals", count(10, 100))
    assert found["wrong"] == []
    assert found["evaluations owed"] > 0


@pytest.mark.parametrize(
    ("where", "trials"), [("saving", (2, 20)), ("tokenising", (3, 30)), ("time_limit", (1, 8))]
)
def test_while(where: str, trials: tuple[int, int], guards: Guards) -> None:
    assert guards(where, count(*trials))["wrong"] == []


def test_one_rank_of_two_in_an_evaluation(guards: Guards) -> None:
    assert guards("one_rank", count(1, 20))["wrong"] == []
