"""A loss that is not finite, or a spike, is stepped on no rank; the run goes on by its policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.faults.conftest import count

Guards = Callable[[str, int], dict[str, Any]]


def test_on_any_rank_at_any_step_it_is_skipped_on_all_and_nothing_else(guards: Guards) -> None:
    assert guards("numbers", count(10, 100))["wrong"] == []


def test_a_stopped_run_goes_on_as_if_it_had_not_been(guards: Guards) -> None:
    assert guards("stopping", count(2, 18))["wrong"] == []


def test_with_weights_in_parts_it_is_kept_whole_and_going_back_is_exact(guards: Guards) -> None:
    assert guards("parts", count(1, 10))["wrong"] == []


def test_rolled_back_and_killed_and_stopped_on_the_way_it_ends_the_same(guards: Guards) -> None:
    assert guards("rollback", count(1, 20))["wrong"] == []
