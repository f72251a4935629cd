"""packing: which piece of which document goes into which row; sees lengths only, never a token.

Rows begin with a document's beginning, or a cut's, and every piece opens with bos, so that no
token is trained on the tail of a stranger (nanochat's BOS-aligned best fit). nanochat drops what a
row cuts off, about 35 % of the tokens; here the rest of a cut piece goes back into the pool.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import NamedTuple

import numpy as np


class Piece(NamedTuple):
    """Tokens start..stop of a document; bos is not counted, and goes in front of them."""

    document: int
    start: int
    stop: int


def pack(lengths: np.ndarray, width: int, split: bool) -> list[list[Piece]]:
    """Lay documents out in rows by best fit: the largest piece that still fits goes in next.

    A piece costs its length + 1, for bos. When nothing fits the rest of a row, the smallest piece
    is cut to fill it (split) or the row is left to be padded (not split). Deterministic, and
    O(n log width). Documents without tokens are left out.

    Args:
        lengths: (documents,) tokens of each, without bos.
        width: tokens of a row, bos included: T + 1 for a model that sees T.
        split: cut documents. One longer than a row then gives row-long pieces and a rest.

    Returns:
        rows of pieces, each row at most `width` wide; every token is in exactly one piece.

    Raises:
        ValueError: a width under 2, or a document that is longer than a row when split is False.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    room = width - 1  # what a row holds beside its first bos
    if room < 1:
        raise ValueError(f"a row of {width} tokens has no room for a token after bos")
    if not split and lengths.size and int(lengths.max()) > room:
        document = int(lengths.argmax())
        raise ValueError(
            f"document {document} has {lengths[document]} tokens; "
            f"a row of {width} takes {room} after bos"
        )
    rows = [
        [Piece(document, start, start + room)]
        for document in np.flatnonzero(lengths >= room).tolist()
        for start in range(0, int(lengths[document]) - room + 1, room)
    ]
    pool = _Pool(lengths, room)
    while pool:
        rows.append(_fill_row(pool, width, split))
    return rows


def _fill_row(pool: _Pool, width: int, split: bool) -> list[Piece]:
    row: list[Piece] = []
    room = width - 1
    while pool and room > 0:
        piece = pool.largest(room)
        if piece is None:
            if not split:
                break
            piece = pool.cut_smallest(room)
        row.append(piece)
        room -= piece.stop - piece.start + 1
    return row


class _Pool:
    """Pieces not yet placed, by length: a stack for each, and the sorted lengths that there are."""

    def __init__(self, lengths: np.ndarray, room: int) -> None:
        """What is left of each document after its row-long pieces."""
        rests = lengths % room
        self.stacks: dict[int, list[Piece]] = {}
        # backwards: a stack gives its last piece first, and earlier documents shall come first
        for document in np.flatnonzero(rests)[::-1].tolist():
            stop = int(lengths[document])
            rest = int(rests[document])
            self.stacks.setdefault(rest, []).append(Piece(document, stop - rest, stop))
        self.sizes = sorted(self.stacks)

    def __bool__(self) -> bool:
        return bool(self.sizes)

    def largest(self, room: int) -> Piece | None:
        """Take the largest piece of at most `room` tokens, if there is one."""
        at = bisect_right(self.sizes, room) - 1
        return None if at < 0 else self._take(at)

    def cut_smallest(self, room: int) -> Piece:
        """Take the first `room` tokens of the smallest piece; its rest stays in the pool."""
        piece = self._take(0)
        cut = piece.start + room
        self._add(Piece(piece.document, cut, piece.stop))
        return Piece(piece.document, piece.start, cut)

    def _take(self, at: int) -> Piece:
        size = self.sizes[at]
        stack = self.stacks[size]
        piece = stack.pop()
        if not stack:
            del self.stacks[size], self.sizes[at]
        return piece

    def _add(self, piece: Piece) -> None:
        size = piece.stop - piece.start
        if size not in self.stacks:
            self.stacks[size] = []
            insort(self.sizes, size)
        self.stacks[size].append(piece)
