from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmkit.nn import KVCache, attend
from lmkit.nn.static_cache import StaticCache

HEADS, WIDTH, LENGTH = 2, 4, 9


def read(lengths: list[int], late: int = 0) -> KVCache:
    """A cache of one layer, in which row b has read `lengths[b]` tokens."""
    cache = KVCache(len(lengths), LENGTH, layers=1)
    cache.begin(lengths)
    shape = len(lengths), HEADS, max(lengths), WIDTH
    cache.append(0, torch.randn(shape), torch.randn(shape), late=late)
    cache.commit()
    return cache


def static(cache: KVCache, seen: int) -> StaticCache:
    slots = torch.tensor(cache.lengths)[:, None]
    keys, values = ([store for store in stores if store is not None] for stores in both(cache))
    return StaticCache(keys, values, slots.clamp(max=LENGTH - 1), slots, torch.arange(seen))


def both(cache: KVCache) -> tuple[list[Tensor | None], list[Tensor | None]]:
    return cache.keys, cache.values


@given(
    lengths=st.lists(st.integers(1, LENGTH - 1), min_size=1, max_size=4),
    window=st.sampled_from([None, 1, 3]),
    more=st.integers(0, 4),
    late=st.integers(0, HEADS),
)
@settings(max_examples=40)
def test_a_step_sees_and_stores_what_a_kv_cache_does(
    lengths: list[int], window: int | None, more: int, late: int
) -> None:
    cache = read(lengths, late)
    other = copy.deepcopy(cache)
    q, k, v = (torch.randn(len(lengths), HEADS, 1, WIDTH) for _ in range(3))
    seen = min(max(lengths) + 1 + more, LENGTH + 1)
    step = static(other, seen)
    keys, values, mask = step.append(0, k, v, window, late)
    assert keys.shape == (len(lengths), HEADS, seen, WIDTH)
    found = attend(q, keys, values, mask=mask)

    cache.begin([1] * len(lengths))
    assert torch.equal(step.positions, cache.positions)
    keys, values, mask = cache.append(0, k, v, window, late)
    torch.testing.assert_close(found, attend(q, keys, values, mask=mask))
    for stores, others in zip(both(cache), both(other), strict=True):
        torch.testing.assert_close(stores, others, rtol=0, atol=0)


@pytest.mark.parametrize("late", [0, 1])
def test_a_row_without_a_token_keeps_what_it_knows(late: int) -> None:
    cache = read([3, LENGTH, 5], late)
    before = copy.deepcopy(cache.keys[0])
    new = torch.randn(3, HEADS, 1, WIDTH)
    static(cache, LENGTH).append(0, new, new, late=late)
    after = cache.keys[0]
    assert before is not None
    assert after is not None
    for row, length in enumerate(cache.lengths):
        assert torch.equal(before[row, :, :length], after[row, :, :length])
        if length == LENGTH:
            continue  # there is no next token
        waiting = slice(HEADS - late, HEADS), length  # the last token's key, for the next one
        assert torch.equal(before[row][waiting], after[row][waiting])


def test_every_token_is_a_last_one() -> None:
    x = torch.randn(2, 1, 5)
    assert static(read([3, 4]), 5).last(x) is x


def test_it_has_no_numbers_that_would_be_compiled_in() -> None:
    step = static(read([3, 4]), 5)
    assert isinstance(step, KVCache)
    for name in ("lengths", "counts", "capacity"):
        with pytest.raises(AttributeError):
            getattr(step, name)
