"""The cache keeps rows of different lengths apart."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.errors import ModelError
from lmkit.nn import Cache, KVCache, Mask, StateCache, attend, offset_keys
from lmkit.nn.attention import attend_reference

TOKENS, HEADS, WIDTH = 24, 2, 4


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(any), max_size=4),
    window=st.none() | st.integers(1, 8),
    late=st.integers(0, HEADS),
)
def test_pieces_of_uneven_rows_see_what_a_whole_row_sees(
    steps: list[tuple[int, int]], window: int | None, late: int
) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, HEADS, TOKENS, WIDTH)
    mask = Mask.causal(TOKENS, window=window)
    whole = attend_reference(q, offset_keys(k, late), v, mask=mask)
    cache = KVCache(2, TOKENS, layers=1)
    for counts in steps:
        cache.begin(counts)
        # padding is as wrong as can be without being a NaN
        new = torch.full((3, 2, HEADS, max(counts), WIDTH), 1e4)
        for row, (start, count) in enumerate(zip(cache.lengths, counts, strict=True)):
            for x, piece in zip((q, k, v), new, strict=True):
                piece[row, :, :count] = x[row, :, start : start + count]
        keys, values, mask = cache.append(0, new[1], new[2], window, late)
        out = attend(new[0], keys, values, mask=mask)
        for row, (start, count) in enumerate(zip(cache.lengths, counts, strict=True)):
            expected = whole[row, :, start : start + count]
            torch.testing.assert_close(out[row, :, :count], expected, atol=1e-5, rtol=1e-4)
        cache.commit()
    assert cache.lengths == [sum(row) for row in zip((0, 0), *steps, strict=True)]


def test_positions_go_on_and_padding_repeats_the_last() -> None:
    cache = KVCache(2, 10, layers=1)
    cache.begin([3, 1])
    assert cache.positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    cache.commit()
    cache.begin([0, 2])
    assert cache.positions.tolist() == [[2, 2], [1, 2]]


def test_last_is_each_rows_last_real_place() -> None:
    cache = StateCache(2)
    x = torch.arange(6.0).view(2, 3, 1)
    cache.begin([2, 3])
    assert cache.last(x).flatten().tolist() == [1, 5]


def test_a_window_gives_back_only_its_slots() -> None:
    cache = KVCache(1, 20, layers=1)
    new = torch.randn(1, 1, 9, 4)
    cache.begin([9])
    cache.append(0, new, new, 4)
    cache.commit()
    cache.begin([1])
    keys, _, mask = cache.append(0, new[:, :, :1], new[:, :, :1], 4)
    assert keys.shape[2] == 4
    assert mask.allowed is None


def test_states_outlive_padding_and_idle_rows() -> None:
    cache = StateCache(2)
    assert torch.equal(cache.recall("h", torch.ones(2, 3)), torch.zeros(2, 3))
    cache.begin([1, 2])
    x = torch.arange(12.0).view(2, 2, 3)
    cache.remember("h", x)
    cache.commit()
    expected = torch.stack([x[0, 0], x[1, 1]])
    assert torch.equal(cache.recall("h", expected), expected)
    cache.begin([0, 1])
    cache.remember("h", torch.full((2, 1, 3), 7.0))
    assert cache.states["h"].tolist() == [[0, 1, 2], [7, 7, 7]]
    cache.reset([1])
    assert cache.states["h"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert cache.lengths == [1, 0]


def test_a_row_that_outgrows_the_cache_is_an_error() -> None:
    cache = KVCache(2, 4, layers=1)
    cache.begin([4, 1])
    cache.commit()
    with pytest.raises(ModelError, match="5 tokens do not fit into a cache of 4; make_cache"):
        cache.begin([1, 1])
    with pytest.raises(ModelError, match="1 counts for a cache of 2 rows"):
        cache.begin([1])


def test_the_cpu_caches_in_float32() -> None:
    cache = KVCache(1, 4, layers=1)
    new = torch.randn(1, 1, 1, 4).bfloat16()
    for dtype in (torch.bfloat16, torch.float32):  # the prefill itself needs no cache
        cache.begin([1])
        keys, values, _ = cache.append(0, new, new)
        cache.commit()
        assert keys.dtype == values.dtype == dtype


@given(
    before=st.lists(st.integers(0, 8), min_size=3, max_size=3),
    rows=st.lists(st.integers(0, 2), min_size=1, max_size=5),
    late=st.integers(0, HEADS),
    data=st.data(),
)
def test_a_row_that_was_taken_goes_on_as_it_would_have(
    before: list[int], rows: list[int], late: int, data: st.DataObject
) -> None:
    after = data.draw(st.lists(st.integers(1, 6), min_size=len(rows), max_size=len(rows)))
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 3, HEADS, TOKENS, WIDTH)
    whole = attend_reference(q, offset_keys(k, late), v, mask=Mask.causal(TOKENS))
    cache = KVCache(3, TOKENS, layers=2)  # the second layer has seen nothing
    if any(before):
        cache.begin(before)
        cache.append(0, k[:, :, : max(before)], v[:, :, : max(before)], late=late)
        cache.commit()
    cache.take(rows)
    assert cache.lengths == [before[row] for row in rows]
    cache.begin(after)
    new = torch.zeros(3, len(rows), HEADS, max(after), WIDTH)
    for place, (row, count) in enumerate(zip(rows, after, strict=True)):
        for x, piece in zip((q, k, v), new, strict=True):
            piece[place, :, :count] = x[row, :, before[row] : before[row] + count]
    keys, values, mask = cache.append(0, new[1], new[2], late=late)
    out = attend(new[0], keys, values, mask=mask)
    for place, (row, count) in enumerate(zip(rows, after, strict=True)):
        expected = whole[row, :, before[row] : before[row] + count]
        torch.testing.assert_close(out[place, :, :count], expected, atol=1e-5, rtol=1e-4)


def test_states_are_taken_too() -> None:
    cache = StateCache(3)
    cache.begin([1, 2, 1])
    x = torch.arange(12.0).view(3, 2, 2)
    cache.remember("h", x)
    cache.commit()
    cache.take([2, 1, 1])
    assert cache.lengths == [1, 2, 2]
    assert torch.equal(cache.states["h"], torch.stack([x[2, 0], x[1, 1], x[1, 1]]))
    cache.begin([1, 1, 1])


def test_keys_can_be_forgotten_from_the_end_and_states_only_as_a_whole() -> None:
    for cache, left in ((KVCache(3, 9, layers=1), [4, 2, 1]), (StateCache(3), [4, 0, 1])):
        cache.begin([4, 3, 1])
        cache.commit()
        cache.rewind([4, 2, 5])
        assert cache.lengths == left


@pytest.mark.parametrize("late", [0, 1])
def test_after_a_rewind_other_tokens_are_read_in_their_place(late: int) -> None:
    torch.manual_seed(0)
    k, v = torch.randn(2, 1, HEADS, 6, WIDTH)
    cache, plain = (KVCache(1, 6, layers=1) for _ in range(2))
    cache.begin([5])
    seven = torch.full_like(k[:, :, :5], 7.0)
    cache.append(0, seven, seven, late=late)
    cache.commit()
    cache.rewind([0])
    for memory in (cache, plain):
        for piece in (slice(0, 2), slice(2, 6)):
            memory.begin([piece.stop - piece.start])
            keys, values, _ = memory.append(0, k[:, :, piece], v[:, :, piece], late=late)
            memory.commit()
        assert torch.equal(keys, offset_keys(k, late))
        assert torch.equal(values, v)


def test_a_class_that_does_not_say_how_cannot_take() -> None:
    class Own(Cache):
        pass

    assert not Own(1, 4).can_take
    assert KVCache(1, 4, layers=1).can_take
    assert StateCache(1).can_take


@given(
    before=st.lists(st.integers(0, 8), min_size=3, max_size=3),
    entering=st.lists(st.integers(1, 8), min_size=1, max_size=3),
    late=st.integers(0, HEADS),
    data=st.data(),
)
@settings(max_examples=25)
def test_rows_that_are_put_go_on_beside_the_others(
    before: list[int], entering: list[int], late: int, data: st.DataObject
) -> None:
    rows = data.draw(st.permutations(range(3)))[: len(entering)]
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 6, HEADS, TOKENS, WIDTH)  # three rows, and three that may enter
    whole = attend_reference(q, offset_keys(k, late), v, mask=Mask.causal(TOKENS))
    cache = KVCache(3, TOKENS, layers=2)  # the second layer has seen nothing
    other = KVCache(len(entering), max(entering), layers=2)
    for memory, first, counts in ((cache, 0, before), (other, 3, entering)):
        if any(counts):
            new = slice(first, first + len(counts))
            memory.begin(counts)
            old = (x[new, :, : max(counts)] for x in (k, v))
            memory.append(0, *old, late=late)
            memory.commit()
    cache.put(rows, other)
    source = list(range(3))
    for place, row in enumerate(rows):
        source[row] = 3 + place
    lengths = [[*before, *entering][row] for row in source]
    assert cache.lengths == lengths
    cache.begin([1] * 3)
    place = torch.tensor(lengths)
    mine = torch.tensor(source)
    new_q, new_k, new_v = (x[mine, :, place][:, :, None] for x in (q, k, v))
    keys, values, mask = cache.append(0, new_k, new_v, late=late)
    out = attend(new_q, keys, values, mask=mask)
    torch.testing.assert_close(out[:, :, 0], whole[mine, :, place], atol=1e-5, rtol=1e-4)


def test_states_are_put_too_and_what_does_not_fit_is_named() -> None:
    cache, other = StateCache(3), StateCache(1)
    other.begin([2])
    other.remember("h", torch.arange(4.0).view(1, 2, 2))
    other.commit()
    cache.put([1], other)
    assert cache.lengths == [0, 2, 0]
    assert cache.states["h"].tolist() == [[0, 0], [2, 3], [0, 0]]
    with pytest.raises(ModelError, match="KVCache cannot be put into a StateCache"):
        cache.put([0], KVCache(1, 4, layers=1))
    with pytest.raises(ModelError, match="2 tokens do not fit into a cache of 1"):
        KVCache(3, 1, layers=1).put([0], other)
    with pytest.raises(ModelError, match="StateCache cannot be put into a KVCache"):
        KVCache(3, 4, layers=1).put([0], other)


def test_the_head_reads_every_place_where_that_is_wanted() -> None:
    cache = StateCache(2)
    x = torch.arange(6.0).view(2, 3, 1)
    cache.begin([2, 3], every=True)
    assert torch.equal(cache.last(x), x)
    cache.remember("h", x)  # a state is that of the last place nevertheless
    assert cache.states["h"].flatten().tolist() == [1, 5]
    cache.begin([2, 3])
    assert cache.last(x).shape == (2, 1, 1)


def test_padding_of_a_full_row_is_kept_apart() -> None:
    torch.manual_seed(0)
    cache = KVCache(2, 4, layers=1)
    new = torch.randn(2, HEADS, 4, WIDTH)
    cache.begin([4, 1])
    cache.append(0, new, new)
    cache.commit()
    cache.begin([0, 3])
    cache.append(0, new[:, :, 1:], new[:, :, 1:])
    cache.commit()
    assert cache.lengths == [4, 4]
    cache.take([0, 1])
    cache.rewind([3, 3])
    cache.begin([1, 1])
    keys, _, _ = cache.append(0, new[:, :, 3:], new[:, :, 3:])
    assert torch.equal(keys, new)
