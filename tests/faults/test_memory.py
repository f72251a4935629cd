"""Where memory does not suffice for all rows at once, half of them are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lmkit.errors import ConfigError
from lmkit.model.memory import in_halves
from tests.faults.conftest import count

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"


def test_an_evaluation_under_a_real_limit(guards: Callable[[str, int], dict[str, Any]]) -> None:
    assert guards("memory", count(1, 10))["wrong"] == []


def test_tasks_and_rollouts_get_the_same_answers_in_parts(
    guards: Callable[[str, int], dict[str, Any]],
) -> None:
    assert guards("narrow", 1)["wrong"] == []


def test_one_of_several_ranks_in_a_step(guards: Callable[[str, int], dict[str, Any]]) -> None:
    assert guards("one_rank_short", count(1, 20))["wrong"] == []


@pytest.mark.parametrize("limit", [1, 2, 3, 8])
def test_the_parts_are_all_rows_in_their_order(limit: int) -> None:
    def work(start: int, stop: int) -> list[int]:
        if stop - start > limit:
            raise RuntimeError(NO_MEMORY)
        return list(range(start, stop))

    assert sum(in_halves(work, 0, 8), []) == list(range(8))


def test_one_row_that_does_not_fit_is_an_error_and_another_error_stays_what_it_is() -> None:
    def work(start: int, stop: int) -> None:
        raise RuntimeError(NO_MEMORY if stop > 1 else "another")

    with pytest.raises(RuntimeError, match="another"):
        list(in_halves(work, 0, 2))
    with pytest.raises(ConfigError, match="the memory does not suffice for one row"):
        list(in_halves(work, 1, 2))
