"""sharded_rows: the rows of one shard after another, in one stream; makes no shard."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

from lmkit.data.layout import hashed
from lmkit.data.rows import AnyRows, Rows
from lmkit.data.sharded import ShardedStore
from lmkit.errors import DataError
from lmkit.text import Batch, Sample, Tokenizer


class ShardedRows:
    """Rows of a store in shards: all of the first, then of the second, epoch after epoch.

    Every shard is laid out and shuffled by itself, with a seed of its own. So row n is a function
    of the seed and of n, as it is in `Rows`, and asks only for the shards up to its own.

    Args:
        seed, width, tokenizer, isolate, pack: as those of `Rows`.

    Raises:
        DataError: as `Rows`, for the first shard; for the others when they are reached.
    """

    def __init__(
        self,
        store: ShardedStore,
        width: int,
        *,
        seed: int | None,
        tokenizer: Tokenizer,
        isolate: bool = False,
        pack: bool = True,
    ) -> None:
        self.store = store
        self.width = width
        self.seed = seed
        self.tokenizer = tokenizer
        self.isolate = isolate
        self.pack = pack
        self._rows = lru_cache(maxsize=2)(self._make_rows)  # a layout holds some 10 MB a block
        self._ends: list[int] = []  # of the rows of each shard, as far as they were counted
        self._finding = threading.Lock()
        for _ in store.ready or [store.shard(0)]:
            self._count_next()
        self.numbered = self._rows(0).numbered

    @property
    def rows_per_epoch(self) -> int:
        """Rows in which every token is seen once; while shards are missing, an estimate."""
        return round(self._ends[-1] * len(self.store) / len(self._ends))

    def batch(self, first_row: int, count: int) -> Batch:
        """Rows first_row..first_row + count of the stream, (count, width). Waits for their shards.

        Raises:
            LMKitError: what went wrong when a shard of them was fetched or tokenised.
            StorageError: a file of the store was cut meanwhile.
        """
        numbers = range(first_row, first_row + count)
        return self.assemble([self._find(number) for number in numbers])

    def assemble(self, picked: Sequence[tuple[AnyRows, int]]) -> Batch:
        """One Batch of (rows, number) pairs, as `Rows.assemble`."""
        return self._rows(0).assemble(picked)

    def samples(self, number: int) -> list[Sample]:
        """What stands in a row of the stream, piece by piece, before padding."""
        rows, within = self._find(number)
        return rows.samples(within)

    def _find(self, number: int) -> tuple[Rows, int]:
        """The rows of the shard that has a row of the stream, and its number among them."""
        with self._finding:
            while number >= self._ends[-1] and len(self._ends) < len(self.store):
                self._count_next()
            # before the last shard was counted, this is the first epoch
            epoch, number = divmod(number, self._ends[-1])
            shard = bisect_right(self._ends, number)
            rows = self._rows(shard)
            before = self._ends[shard - 1] if shard else 0
            return rows, epoch * rows.rows_per_epoch + number - before

    def _count_next(self) -> None:
        before = self._ends[-1] if self._ends else 0
        self._ends.append(before + self._rows(len(self._ends)).rows_per_epoch)

    def _make_rows(self, shard: int) -> Rows:
        store = self.store.shard(shard)
        if store.prompts != self.store.prompts:
            raise DataError("texts and prompts in one source", hint="make two", at=store.about)
        return Rows(
            store,
            self.width,
            seed=None if self.seed is None else int(hashed(1, self.seed, "shard", shard)[0]),
            tokenizer=self.tokenizer,
            isolate=self.isolate,
            pack=self.pack,
        )
