"""layout: which pieces of which documents make up row i of epoch e; sees lengths only.

Everything here is a pure function of (seed, epoch, index). An epoch has the same number of rows
every time, and that number is known without packing anything, so that any row of the endless
stream can be found at once.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from lmkit.text import Piece, pack

# A run shorter than a block sees rows of all its documents; with 2**21 a quickstart of 1.5 M tokens
# learned one document in six by heart. Packing takes 0.1 s for documents of 1,000 tokens, 4 s for
# those of 20.
BLOCK_TOKENS = 2**24
BLOCK_SAMPLES = 65_536  # whole samples that are packed together


class Layout(Protocol):
    """Where the tokens of a row come from."""

    rows_per_epoch: int

    def row(self, epoch: int, index: int) -> list[Piece]:
        """The pieces of a row, in the order in which they stand in it."""


class SampleLayout:
    """Whole samples, packed once; every epoch goes through the rows in another order.

    Args:
        lengths: (samples,) tokens of each without bos, at most `width`.
        width: T; a row takes T + 1 tokens.
        seed: None: in the order in which they were packed.
        pack_samples: several samples a row, best fit; False: one.
    """

    def __init__(
        self, lengths: np.ndarray, width: int, seed: int | None, *, pack_samples: bool
    ) -> None:
        self.lengths = lengths
        self.seed = seed
        samples = np.arange(len(lengths))
        ends = samples + 1
        if pack_samples:
            samples, ends = _packed_samples(lengths, width)
        self._samples = samples
        self._ends = ends  # where each row ends in _samples
        self.rows_per_epoch = len(ends)
        self._order = lru_cache(maxsize=2)(self._make_order)

    def row(self, epoch: int, index: int) -> list[Piece]:
        row = int(self._order(epoch)[index])
        start = int(self._ends[row - 1]) if row else 0
        samples = self._samples[start : self._ends[row]].tolist()
        return [Piece(sample, 0, int(self.lengths[sample])) for sample in samples]

    def _make_order(self, epoch: int) -> np.ndarray:
        return shuffled(self.rows_per_epoch, self.seed, "rows", epoch)


class TextLayout:
    """Text: documents follow one another in an order of the epoch's own, and are cut into rows.

    The epoch is a line of units: each document has one for its bos, one for every token, and one
    more if it is longer than a row, for the cut at a random place that lets epochs see other rows
    of it. A block is the next stretch of units, and becomes K rows of T + 1 places by best fit.

    How many rows that takes is known beforehand: best fit loses at most one place of a row (the bos
    of the piece that it cuts, or a rest too small for a piece) and none of the last, so K rows hold
    K*T + 1 units; a block that begins inside a document needs up to two places beyond its units,
    for that document's bos and random cut. The order of the documents does not matter.

    Args:
        lengths: (documents,) tokens of each, without bos.
        width: T.
        seed: None: documents in order, no random cut, rows in reading order.
        block_tokens: tokens that are packed and shuffled together.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        width: int,
        seed: int | None,
        *,
        block_tokens: int = BLOCK_TOKENS,
    ) -> None:
        self.lengths = lengths
        self.width = width
        self.seed = seed
        self._overhead = 1 + ((lengths > width) & (seed is not None))
        self._units = int((lengths + self._overhead).sum())
        extra = 1 if seed is None else 2  # places beyond a block's units
        self._block_rows = max(block_tokens // width, 16)
        self._block_units = self._block_rows * width + 1 - extra
        self._full_blocks, rest = divmod(self._units, self._block_units)
        needed = rest + (extra if self._full_blocks else 0)
        self._last_rows = -(-(needed - 1) // width) if rest else 0
        self.rows_per_epoch = self._full_blocks * self._block_rows + self._last_rows
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._block = lru_cache(maxsize=4)(self._make_block)

    def row(self, epoch: int, index: int) -> list[Piece]:
        block, within = divmod(index, self._block_rows)
        return self._block(epoch, block)[within]

    def _make_epoch(self, epoch: int) -> _Epoch:
        documents = shuffled(len(self.lengths), self.seed, "documents", epoch)
        ends = np.cumsum((self.lengths + self._overhead)[documents])
        return _Epoch(documents, ends, shuffled(self._full_blocks, self.seed, "blocks", epoch))

    def _make_block(self, epoch: int, position: int) -> list[list[Piece]]:
        """The rows of the block that comes at this position; a last, smaller one comes last."""
        full = position < self._full_blocks
        block = int(self._epoch(epoch).blocks[position]) if full else position
        parts = self._parts(epoch, block)
        lengths = np.array([part.stop - part.start for part in parts])
        rows = [
            [_piece_of(parts[number], start, stop) for number, start, stop in row]
            for row in pack(lengths, self.width + 1, split=True)
        ]
        rows = _stretched(rows, self._block_rows if full else self._last_rows)
        if self.seed is None:
            return sorted(rows, key=min)
        return [rows[row] for row in shuffled(len(rows), self.seed, "rows", epoch, block)]

    def _parts(self, epoch: int, block: int) -> list[Piece]:
        """What a block holds of each document, one longer than a row cut a first time."""
        order = self._epoch(epoch)
        start = block * self._block_units
        stop = min(start + self._block_units, self._units)
        first = int(np.searchsorted(order.ends, start, side="right"))
        last = int(np.searchsorted(order.ends, stop, side="left"))
        shifts = hashed(last + 1 - first, self.seed, "shifts", epoch, block) % self.width + 1
        parts = []
        for place, shift in zip(range(first, last + 1), shifts.tolist(), strict=True):
            document = int(order.documents[place])
            length = int(self.lengths[document])
            begins = int(order.ends[place]) - length  # the unit of its first token
            piece = Piece(document, max(start - begins, 0), min(stop - begins, length))
            cut = piece.start + shift
            if self.seed is not None and piece.stop - piece.start > self.width:
                parts += [piece._replace(stop=cut), piece._replace(start=cut)]
            elif piece.stop > piece.start:
                parts.append(piece)
        return parts


class _Epoch(NamedTuple):
    """The order of an epoch: documents, the unit at which each ends, and full blocks."""

    documents: np.ndarray
    ends: np.ndarray
    blocks: np.ndarray


def hashed(count: int, *key: object) -> np.ndarray:
    """(count,) uint64, random numbers that are a function of `key`, in every version of numpy.

    splitmix64 (Steele, Lea and Flood 2014), whose i-th number needs no other.
    """
    start = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little")
    numbers = np.arange(count, dtype=np.uint64)
    numbers *= np.uint64(0x9E3779B97F4A7C15)
    numbers += np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers ^= numbers >> np.uint64(shift)
        numbers *= np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


def shuffled(count: int, seed: int | None, *key: object) -> np.ndarray:
    """(count,) int64, the numbers 0..count-1 in an order that (seed, key) decides; None: sorted."""
    if seed is None:
        return np.arange(count)
    return np.argsort(hashed(count, seed, *key), kind="stable")


def _piece_of(part: Piece, start: int, stop: int) -> Piece:
    return Piece(part.document, part.start + start, part.start + stop)


def _stretched(rows: list[list[Piece]], count: int) -> list[list[Piece]]:
    """Exactly `count` rows: best fit may need fewer, so some are halved; no row stays empty."""
    waiting, rows = rows[::-1], []
    while len(waiting) + len(rows) < count:
        halves = _halves(waiting.pop())
        rows += halves
        if not waiting:
            waiting, rows = rows[::-1], []
    return rows + waiting[::-1]


def _halves(row: list[Piece]) -> list[list[Piece]]:
    """The row cut in the middle of its tokens; a row of one token stays whole."""
    first, second = [], []
    left = sum(piece.stop - piece.start for piece in row) // 2
    for piece in row:
        cut = min(max(piece.start + left, piece.start), piece.stop)
        if cut > piece.start:
            first.append(piece._replace(stop=cut))
        if cut < piece.stop:
            second.append(piece._replace(start=cut))
        left -= piece.stop - piece.start
    return [half for half in (first, second) if half]


def _packed_samples(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(samples,) in the order of the rows, and (rows,) where each row ends among them."""
    samples: list[int] = []
    ends: list[int] = []
    for first in range(0, len(lengths), BLOCK_SAMPLES):
        for row in pack(lengths[first : first + BLOCK_SAMPLES], width + 1, split=False):
            samples += [first + piece.document for piece in row]
            ends.append(len(samples))
    return np.array(samples, dtype=np.int64), np.array(ends, dtype=np.int64)
