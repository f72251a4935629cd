from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from lmkit.data import BatchStream, Rows, TokenStore
from lmkit.text import Batch, Byte


@pytest.fixture
def rows(store_of: Callable[..., TokenStore]) -> Rows:
    texts = ["".join(chr(97 + (i * j) % 26) for i in range(40 + j)) for j in range(20)]
    return Rows(store_of(texts), 16, seed=3, tokenizer=Byte())


def inputs(stream: BatchStream) -> torch.Tensor:
    return torch.cat([batch.inputs for batch in stream])


@pytest.mark.parametrize("prefetch", [True, False])
def test_batches_are_the_stream_in_order(rows: Rows, prefetch: bool) -> None:
    stream = BatchStream(rows, rows_per_batch=8, last_row=100, prefetch=prefetch)
    batches = list(stream)
    assert [len(batch) for batch in batches] == [8] * 12 + [4]
    whole = rows.batch(0, 100)
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), whole.inputs)
    assert torch.equal(torch.cat([batch.targets for batch in batches]), whole.targets)
    assert stream.position == 100
    assert next(stream, None) is None


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("last_row", [24, 29, 25])
def test_the_shares_of_all_ranks_are_the_global_batch(rows: Rows, size: int, last_row: int) -> None:
    options = {"rows_per_batch": 12, "last_row": last_row, "size": size}
    streams = [BatchStream(rows, rank=rank, **options) for rank in range(size)]
    for first in range(0, last_row, 12):
        shares = [next(stream) for stream in streams]
        whole = rows.batch(first, min(12, last_row - first))
        assert torch.equal(torch.cat([share.inputs for share in shares]), whole.inputs)
        assert sum(share.count for share in shares) == whole.count
        assert len({stream.position for stream in streams}) == 1
    assert all(next(stream, None) is None for stream in streams)


def test_a_share_of_the_last_batch_may_be_empty(rows: Rows) -> None:
    stream = BatchStream(rows, rows_per_batch=6, last_row=7, rank=0, size=3)
    assert [batch.inputs.shape for batch in stream] == [(2, 16), (0, 16)]


@pytest.mark.parametrize("sizes", [(1, 2), (3, 1), (2, 2)])
def test_it_resumes_at_its_position_with_any_number_of_ranks(
    rows: Rows, sizes: tuple[int, int]
) -> None:
    def consumed(size: int, first_row: int, last_row: int) -> torch.Tensor:
        shares = [
            BatchStream(
                rows, rows_per_batch=6, first_row=first_row, last_row=last_row, rank=rank, size=size
            )
            for rank in range(size)
        ]
        return torch.cat([batch.inputs for group in zip(*shares, strict=True) for batch in group])

    before, after = sizes
    for position in (6, 30, 54):
        resumed = torch.cat([consumed(before, 0, position), consumed(after, position, 60)])
        assert torch.equal(resumed, rows.batch(0, 60).inputs)


class Watched:
    """Rows that say when they are asked, and by which thread."""

    rows_per_epoch = 100

    def __init__(self, rows: Rows, fail_at: int = -1) -> None:
        self.rows, self.fail_at = rows, fail_at
        self.asked: list[int] = []
        self.threads: set[str] = set()

    def batch(self, first_row: int, count: int) -> Batch:
        self.asked.append(first_row)
        self.threads.add(threading.current_thread().name)
        if first_row == self.fail_at:
            raise ValueError("row 8 is bad")
        return self.rows.batch(first_row, count)


def settled(watched: Watched, count: int) -> list[int]:
    deadline = time.monotonic() + 10
    while len(watched.asked) < count and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.01)  # one more would come now
    return watched.asked


def test_one_batch_is_prepared_ahead_in_a_thread(rows: Rows) -> None:
    watched = Watched(rows)
    stream = BatchStream(watched, rows_per_batch=4, last_row=12)
    assert settled(watched, 1) == [0]
    next(stream)
    assert settled(watched, 2) == [0, 4]
    next(stream)
    next(stream)
    assert settled(watched, 3) == [0, 4, 8]  # nothing beyond the end
    assert threading.current_thread().name not in watched.threads


def test_without_prefetch_nothing_is_made_before_it_is_asked_for(rows: Rows) -> None:
    watched = Watched(rows)
    stream = BatchStream(watched, rows_per_batch=4, prefetch=False)
    assert not watched.asked
    next(stream)
    assert watched.asked == [0]
    assert watched.threads == {threading.current_thread().name}


def test_an_error_in_the_thread_is_raised_where_the_batch_was_due(rows: Rows) -> None:
    stream = BatchStream(Watched(rows, fail_at=8), rows_per_batch=4)
    next(stream)
    next(stream)
    with pytest.raises(ValueError, match="row 8 is bad"):
        next(stream)
    assert stream.position == 8


def test_the_time_spent_waiting_is_counted_since_it_was_last_read(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]

    class Slow(Watched):
        def batch(self, first_row: int, count: int) -> Batch:
            clock[0] += 5
            return super().batch(first_row, count)

    fake = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr("lmkit.data.stream.time", fake)
    stream = BatchStream(Slow(rows), rows_per_batch=4, prefetch=False)
    next(stream)
    clock[0] += 1000  # the model's time
    next(stream)
    assert stream.waited == 10
    assert stream.waited == 0


def test_close_ends_the_thread(rows: Rows) -> None:
    before = set(threading.enumerate())
    stream = BatchStream(rows, rows_per_batch=4)
    next(stream)
    (thread,) = set(threading.enumerate()) - before
    stream.close()
    thread.join(5)
    assert not thread.is_alive()
