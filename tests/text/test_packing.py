"""Laws of packing, whatever the lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.text.packing import Piece, pack

lengths = st.lists(st.integers(0, 70), max_size=60)


def used(row: list[Piece]) -> int:
    return sum(piece.stop - piece.start + 1 for piece in row)


def tokens(rows: list[list[Piece]]) -> list[tuple[int, int]]:
    return sorted((p.document, t) for row in rows for p in row for t in range(p.start, p.stop))


@settings(max_examples=50, deadline=None)
@given(sizes=lengths, width=st.integers(2, 30))
def test_split_loses_and_doubles_no_token(sizes: list[int], width: int) -> None:
    rows = pack(np.array(sizes, dtype=np.int64), width, split=True)
    assert tokens(rows) == [(d, t) for d, size in enumerate(sizes) for t in range(size)]
    assert all(piece.stop > piece.start for row in rows for piece in row)
    assert all(0 < used(row) <= width for row in rows)
    # only the last row may have room for one more token and its bos
    assert all(used(row) >= width - 1 for row in rows[:-1])
    assert pack(np.array(sizes, dtype=np.int64), width, split=True) == rows


@settings(max_examples=50, deadline=None)
@given(sizes=lengths, spare=st.integers(0, 20))
def test_whole_samples_stay_whole(sizes: list[int], spare: int) -> None:
    width = max([*sizes, 1]) + 1 + spare
    rows = pack(np.array(sizes, dtype=np.int64), width, split=False)
    pieces = sorted(piece for row in rows for piece in row)
    assert pieces == [Piece(d, 0, size) for d, size in enumerate(sizes) if size]
    assert all(0 < used(row) <= width for row in rows)
    # best fit leaves at most one row that is half empty
    assert sum(used(row) * 2 <= width for row in rows) <= 1


def test_the_largest_piece_that_fits_comes_next() -> None:
    assert pack(np.array([3, 5, 2, 6]), 10, split=False) == [
        [Piece(3, 0, 6), Piece(2, 0, 2)],
        [Piece(1, 0, 5), Piece(0, 0, 3)],
    ]


def test_the_smallest_piece_is_cut_when_none_fits() -> None:
    assert pack(np.array([6, 5]), 10, split=True) == [
        [Piece(0, 0, 6), Piece(1, 0, 2)],
        [Piece(1, 2, 5)],
    ]


def test_long_documents_give_whole_rows_and_a_rest() -> None:
    rows = pack(np.array([21, 8]), 9, split=True)
    assert rows == [
        [Piece(0, 0, 8)],
        [Piece(0, 8, 16)],
        [Piece(1, 0, 8)],
        [Piece(0, 16, 21)],
    ]


def test_nothing_gives_nothing() -> None:
    assert pack(np.array([], dtype=np.int64), 8, split=True) == []
    assert pack(np.array([0, 0]), 8, split=False) == []


def test_what_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="document 1 has 9 tokens; a row of 9 takes 8 after bos"):
        pack(np.array([8, 9]), 9, split=False)
    with pytest.raises(ValueError, match="a row of 1 tokens has no room"):
        pack(np.array([1]), 1, split=True)


def test_many_documents_leave_almost_no_padding() -> None:
    sizes = np.random.default_rng(0).lognormal(5, 1.2, 20_000).astype(int) + 1
    rows = pack(sizes, 513, split=True)
    # counted in rows: no more than the tokens and one bos a piece need, and 1 in 10,000
    assert sum(map(used, rows)) > 0.9999 * 513 * len(rows)
    assert sum(piece.stop - piece.start for row in rows for piece in row) == sizes.sum()
