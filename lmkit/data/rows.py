"""rows: the endless stream of rows of a store, any stretch of it at once; knows no ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lmkit.data.layout import Layout, SampleLayout, TextLayout
from lmkit.data.store import TokenStore
from lmkit.errors import DataError
from lmkit.text import Batch, Piece, Sample, Tokenizer

SHORTEST_ROW = 3  # below that a row may hold no text at all


class Checked(Protocol):
    """A store that sees when its files are cut."""

    def check(self) -> None: ...


class AnyRows(Protocol):
    """What a Batch can be assembled of: `Rows`, and those of a store in shards."""

    @property
    def store(self) -> Checked: ...

    def samples(self, number: int) -> list[Sample]: ...


class Rows:
    """Rows of `width` positions, epoch after epoch without end.

    `batch(first_row, count)` is a pure function of (seed, first_row, count): resuming needs a
    counter and no replay, and it does not matter how many ranks or threads ask, or in what order.

    Text fills its rows: documents are cut, and every piece opens with bos. All tokens of the text
    are targets, once an epoch; a bos is one where it ends a document, and not where a document was
    cut. Prompts are kept whole, and padded on the right.

    Args:
        store: what `prepare` gave.
        width: T, positions of a row; a row takes T + 1 tokens.
        seed: decides the order; None (validation): that of the documents, the same every epoch.
        isolate: number the documents of text rows, so that none attends to another.
        pack: put several prompts in a row and number them; False, for models that cannot isolate
            documents: one prompt a row.
        tokenizer: the one that the store was made with.

    Attributes:
        rows_per_epoch: rows in which every token is seen once; the same for every epoch.

    Raises:
        DataError: there is too little text for a row, or a prompt is longer than one.
    """

    def __init__(
        self,
        store: TokenStore,
        width: int,
        *,
        seed: int | None,
        tokenizer: Tokenizer,
        isolate: bool = False,
        pack: bool = True,
    ) -> None:
        self.store = store
        self.width = width
        self.tokenizer = tokenizer
        self.numbered = pack if store.prompts else isolate
        self._check(seed)
        self._layout: Layout = (
            SampleLayout(store.lengths, width, seed, pack_samples=pack)
            if store.prompts
            else TextLayout(store.lengths, width, seed)
        )
        self.rows_per_epoch = self._layout.rows_per_epoch

    def batch(self, first_row: int, count: int) -> Batch:
        """Rows first_row..first_row + count of the stream, (count, width).

        Raises:
            StorageError: a file of the store was cut meanwhile.
        """
        numbers = range(first_row, first_row + count)
        return self.assemble([(self, number) for number in numbers])

    def assemble(self, picked: Sequence[tuple[AnyRows, int]]) -> Batch:
        """One Batch of (rows, number) pairs; other Rows among them have the same width."""
        for rows in {rows for rows, _ in picked}:
            rows.store.check()
        tokenizer = self.tokenizer
        return Batch.packed(
            [rows.samples(number) for rows, number in picked],
            tokenizer.eos,
            tokenizer.token_bytes,
            self.width,
            isolate=self.numbered,
        )

    def samples(self, number: int) -> list[Sample]:
        """What stands in a row of the stream, piece by piece, before padding."""
        epoch, index = divmod(number, self.rows_per_epoch)
        pieces = self._layout.row(epoch, index)
        if self.store.prompts:
            return [self._prompt(piece) for piece in pieces]
        samples, room, ended = [], self.width + 1, False
        for piece in pieces:
            samples.append(self._text(piece, after_end=ended))
            room -= len(samples[-1].ids)
            ended = piece.stop == self.store.lengths[piece.document]
        if ended and room:
            samples.append(_mark(self.tokenizer.bos))
        return samples

    def _prompt(self, piece: Piece) -> Sample:
        mask = self.store.mask(*piece)
        assert mask is not None  # a store of prompts has one
        return Sample(self._ids(piece), np.concatenate([_UNTRAINED, mask]))

    def _text(self, piece: Piece, after_end: bool) -> Sample:
        """A piece of a document; its bos is trained if it tells that the one before has ended."""
        mask = np.ones(piece.stop - piece.start + 1, dtype=bool)
        mask[0] = after_end
        return Sample(self._ids(piece), mask)

    def _ids(self, piece: Piece) -> np.ndarray:
        ids = np.empty(piece.stop - piece.start + 1, dtype=np.int32)
        ids[0] = self.tokenizer.bos
        ids[1:] = self.store.tokens(*piece)
        return ids

    def _check(self, seed: int | None) -> None:
        store, width = self.store, self.width
        if width < SHORTEST_ROW:
            raise DataError(f"a row of {width} tokens is too short; the least is {SHORTEST_ROW}")
        longest = int(store.lengths.max(initial=0))
        if store.prompts and longest > width:
            raise DataError(
                f"a prompt has {longest} tokens, a row takes {width}",
                hint="prepare the prompts with this max_len",
                at=store.about,
            )
        wanted = 1 if store.prompts or seed is None else width
        if store.token_count < wanted:
            raise DataError(
                f"{store.token_count} tokens are less than a row of {width}",
                hint="give more text, or a smaller max_len",
                at=store.about,
            )


_UNTRAINED = np.zeros(1, dtype=bool)


def _mark(bos: int) -> Sample:
    """A bos after the last document of a row, trained: the document ends here."""
    return Sample(np.array([bos], dtype=np.int32), np.ones(1, dtype=bool))
