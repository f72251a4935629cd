"""A sum of numbered terms has the same bits however the terms are shared out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmkit.data import BatchStream
from lmkit.train.ordered import Node, PairwiseSum, nodes_before


def terms(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(50, generator=generator) * 10**i for i in range(-2, count - 2)]


def add(numbers: range, given: list[Tensor], into: PairwiseSum) -> PairwiseSum:
    for number in numbers:
        into.add(Node(0, number, [given[number].clone()]))
    return into


@given(st.integers(1, 20), st.lists(st.integers(0, 20), max_size=4))
def test_the_sum_does_not_depend_on_who_adds(count: int, cuts: list[int]) -> None:
    values = terms(count)
    (alone,) = add(range(count), values, PairwiseSum()).total()
    borders = [0, *sorted(min(cut, count) for cut in cuts), count]
    handed_on = PairwiseSum()
    for first, last in zip(borders, borders[1:], strict=False):
        assert [(n.level, n.index) for n in handed_on.nodes] == list(nodes_before(first))
        own = add(range(first, last), values, PairwiseSum())
        for node in own.nodes:
            handed_on.add(node)
    (shared,) = handed_on.total()
    assert shared.equal(alone)


def test_a_rank_holds_few_terms() -> None:
    held = PairwiseSum()
    values = terms(20)
    most = 0
    for number in range(20):
        add(range(number, number + 1), values, held)
        most = max(most, len(held.nodes))
    assert most == 4  # 15 terms: 8 + 4 + 2 + 1
    torch.testing.assert_close(held.total()[0], torch.stack(values).sum(0), rtol=1e-4, atol=0)


@given(st.integers(1, 30), st.integers(1, 7), st.integers(1, 5))
def test_ranks_are_given_whole_micro_batches(rows: int, unit: int, size: int) -> None:
    class Numbers:
        rows_per_epoch = 100

        def batch(self, first_row: int, count: int) -> Any:
            return SimpleNamespace(numbers=[*range(first_row, first_row + count)], width=1)

    options: dict[str, Any] = {"rows_per_batch": rows, "unit": unit, "prefetch": False}
    streams = [BatchStream(Numbers(), rank=rank, size=size, **options) for rank in range(size)]
    shares = [next(stream).numbers for stream in streams]  # type: ignore[attr-defined]
    assert sum(shares, []) == [*range(rows)]
    assert all(share[0] % unit == 0 for share in shares if share)
