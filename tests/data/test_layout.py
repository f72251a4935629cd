from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.data.layout import SampleLayout, TextLayout, hashed, shuffled
from lmkit.text import Piece

lengths_of = st.lists(
    st.one_of(st.integers(1, 12), st.integers(1, 400)), min_size=1, max_size=60
).map(np.array)
seeds = st.one_of(st.none(), st.integers(0, 2**40))


def epoch_of(layout: TextLayout | SampleLayout, epoch: int) -> list[list[Piece]]:
    return [layout.row(epoch, index) for index in range(layout.rows_per_epoch)]


def tokens_of(rows: list[list[Piece]]) -> Counter[tuple[int, int]]:
    return Counter(
        (piece.document, token)
        for row in rows
        for piece in row
        for token in range(piece.start, piece.stop)
    )


def all_tokens(lengths: np.ndarray) -> Counter[tuple[int, int]]:
    return Counter((d, token) for d, length in enumerate(lengths) for token in range(length))


class TestText:
    @given(lengths_of, st.integers(3, 40), seeds, st.integers(0, 3))
    @settings(max_examples=50, deadline=None)
    def test_every_token_is_in_one_row_of_an_epoch_and_every_row_has_some(
        self, lengths: np.ndarray, width: int, seed: int | None, epoch: int
    ) -> None:
        for block_tokens in (1, 500, 10**6):  # many blocks, some, one
            layout = TextLayout(lengths, width, seed, block_tokens=block_tokens)
            rows = epoch_of(layout, epoch)
            assert tokens_of(rows) == all_tokens(lengths)
            assert all(
                0 < sum(piece.stop - piece.start + 1 for piece in row) <= width + 1 for row in rows
            )

    def test_rows_are_as_good_as_full(self) -> None:
        lengths = np.random.default_rng(0).lognormal(5, 1.5, 2000).astype(int) + 1
        layout = TextLayout(lengths, 64, 1, block_tokens=50_000)
        places = layout.rows_per_epoch * 65
        used = sum(piece.stop - piece.start + 1 for row in epoch_of(layout, 0) for piece in row)
        assert used / places > 0.99
        assert layout.rows_per_epoch * 64 < 1.01 * (lengths + 2).sum()

    def test_without_a_seed_rows_are_in_reading_order_and_epochs_equal(self) -> None:
        lengths = np.array([100, 3, 5, 40, 7, 200])
        layout = TextLayout(lengths, 16, None, block_tokens=100)
        rows = epoch_of(layout, 0)
        assert rows == epoch_of(layout, 5)
        assert rows[0] == [Piece(0, 0, 16)]
        assert rows == sorted(rows, key=min)

    def test_epochs_and_seeds_differ_in_order_and_in_cuts(self) -> None:
        lengths = np.full(50, 300)
        layout = TextLayout(lengths, 64, 1)
        first, second = epoch_of(layout, 0), epoch_of(layout, 1)
        assert first != second
        assert first != epoch_of(TextLayout(lengths, 64, 2), 0)

        def cuts(rows: list[list[Piece]]) -> set[tuple[int, int]]:
            return {(piece.document, piece.start) for row in rows for piece in row if piece.start}

        assert len(cuts(first) & cuts(second)) < len(cuts(first)) / 4
        assert [row[0].document for row in first] != sorted(row[0].document for row in first)

    def test_a_single_long_document_is_shuffled_too(self) -> None:
        layout = TextLayout(np.array([100_000]), 64, 1, block_tokens=20_000)
        starts = [row[0].start for row in epoch_of(layout, 0)]
        blocks = [start // 20_000 for start in starts]
        assert blocks != sorted(blocks)
        assert starts[:20] != sorted(starts[:20])

    def test_a_row_is_found_without_those_before_it(self) -> None:
        lengths = np.full(20_000, 300)
        layout = TextLayout(lengths, 64, 1, block_tokens=20_000)
        layout.row(7, layout.rows_per_epoch // 2)
        assert layout._block.cache_info().misses == 1


class TestSamples:
    @given(lengths_of, seeds, st.booleans(), st.integers(0, 3))
    @settings(max_examples=50, deadline=None)
    def test_every_sample_is_in_one_row_of_an_epoch_and_whole(
        self, lengths: np.ndarray, seed: int | None, pack_samples: bool, epoch: int
    ) -> None:
        layout = SampleLayout(lengths, 400, seed, pack_samples=pack_samples)
        rows = epoch_of(layout, epoch)
        pieces = sorted(piece for row in rows for piece in row)
        assert pieces == [Piece(number, 0, length) for number, length in enumerate(lengths)]
        assert all(sum(piece.stop + 1 for piece in row) <= 401 for row in rows)
        if not pack_samples:
            assert len(rows) == len(lengths)

    def test_packing_saves_rows_and_epochs_differ(self) -> None:
        lengths = np.random.default_rng(0).integers(1, 40, 500)
        layout = SampleLayout(lengths, 64, 1, pack_samples=True)
        assert layout.rows_per_epoch < 1.03 * (lengths + 1).sum() / 65
        first, second = epoch_of(layout, 0), epoch_of(layout, 1)
        assert first != second
        assert sorted(first) == sorted(second)
        unshuffled = SampleLayout(lengths, 64, None, pack_samples=False)
        assert [row[0].document for row in epoch_of(unshuffled, 3)] == list(range(500))


def test_the_order_is_the_same_in_every_version() -> None:
    """A run that is resumed years later goes on where it was: these numbers never change."""
    assert hashed(3, 1337, "rows", 0).tolist() == [
        1324471719585058057,
        7240503229661925957,
        18203983512692311176,
    ]
    assert shuffled(10, 1337, "rows", 0).tolist() == [4, 0, 3, 5, 6, 8, 1, 9, 7, 2]


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_a_shuffle_is_a_permutation(count: int) -> None:
    order = shuffled(count, 1, "x")
    assert sorted(order.tolist()) == list(range(count))
    assert shuffled(count, None, "x").tolist() == list(range(count))


def test_random_numbers_are_spread_and_keys_differ() -> None:
    numbers = hashed(10_000, 1, "x")
    assert len(set(numbers.tolist())) == 10_000
    assert 4_800 < int((numbers % 2).sum()) < 5_200
    assert abs(np.corrcoef(numbers[:-1].astype(float), numbers[1:].astype(float))[0, 1]) < 0.05
    assert not set(numbers.tolist()) & set(hashed(10_000, 2, "x").tolist())
