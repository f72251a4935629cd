"""stream: this rank's Batches, one prepared ahead; knows rows by their number only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from functools import partial
from typing import Protocol

from lmkit.data.worker import Worker
from lmkit.text import Batch

LOOK = 0.1  # seconds between two looks while a batch is waited for


class RowSource(Protocol):
    """What a stream reads: what `open_rows` gives, or a user's own."""

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one pass over the data."""

    def batch(self, first_row: int, count: int) -> Batch:
        """Rows first_row..first_row + count of an endless stream, a pure function."""


class BatchStream(Iterator[Batch]):
    """Global batches one after another, of each this rank's share.

    Shares are contiguous: put together in the order of the ranks they are the global batch,
    whatever the number of ranks. While a batch is used the next one is made in a thread; an error
    in it is raised by the `next` that would have returned it.

    Args:
        rows_per_batch: rows of a global batch.
        first_row: where to begin, in rows of the stream; a resumed run gives its `position`.
        last_row: the row before which to stop; the last batch may be smaller, and a rank's share of
            it may have no row at all. None: never.
        rank: which share,
        size: of how many.
        unit: cut between every so many rows of a global batch only.
        prefetch: False: make a batch when it is asked for.
        look: is called now and then while a batch is waited for; what it raises ends the waiting.

    Attributes:
        position: rows of the stream that were handed out, those of all ranks together.
        tokens: positions of the global batch that was handed out last.
        measures: nothing is measured of a batch that is only read.
        resumable: the rows after `position` can always be read again.
    """

    measures: Mapping[str, float] = {}
    resumable = True

    def __init__(
        self,
        rows: RowSource,
        *,
        rows_per_batch: int,
        first_row: int = 0,
        last_row: int | None = None,
        rank: int = 0,
        size: int = 1,
        unit: int = 1,
        prefetch: bool = True,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.rows = rows
        self.rows_per_batch = rows_per_batch
        self.last_row = last_row
        self.rank = rank
        self.size = size
        self.unit = unit
        self.position = first_row
        self.tokens = 0
        self._waited = 0.0
        self._look = look
        self._worker = Worker("lmkit-batches") if prefetch else None
        self._ahead = self._prepare()

    def __next__(self) -> Batch:
        count = self._rows_at(self.position)
        if count == 0:
            self.close()
            raise StopIteration
        started = time.perf_counter()
        while self._ahead and not wait([self._ahead], LOOK).done:
            self._look()
        batch = self._ahead.result() if self._ahead else self._share(self.position)
        self._waited += time.perf_counter() - started
        self.position += count
        self.tokens = count * batch.width
        self._ahead = self._prepare()
        return batch

    @property
    def waited(self) -> float:
        """Seconds that `next` took since this was last read."""
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Stop preparing batches."""
        if self._worker:
            self._worker.close()

    def _prepare(self) -> Future[Batch] | None:
        """The batch at `position`, begun in the thread."""
        if self._worker is None or not self._rows_at(self.position):
            return None
        return self._worker.begin(partial(self._share, self.position))

    def _rows_at(self, position: int) -> int:
        """Rows of the global batch that begins here."""
        if self.last_row is None:
            return self.rows_per_batch
        return max(0, min(self.rows_per_batch, self.last_row - position))

    def _share(self, position: int) -> Batch:
        count = self._rows_at(position)
        units = -(-count // self.unit)
        start, stop = (
            min(count, units * rank // self.size * self.unit) for rank in (self.rank, self.rank + 1)
        )
        return self.rows.batch(position + start, stop - start)
