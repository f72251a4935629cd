"""A worker does one thing after another, and ends when nobody has it any more."""

from __future__ import annotations

import threading

import pytest

from lmkit.data.worker import Worker


def test_what_is_begun_is_done_in_order_and_an_error_comes_where_the_result_is_asked_for() -> None:
    worker, done = Worker("a worker"), []
    gate = threading.Event()
    first = worker.begin(gate.wait)
    broken = worker.begin(lambda: 1 // 0)
    last = worker.begin(lambda: done.append(threading.current_thread().name))
    assert not last.done()
    gate.set()
    assert first.result(10)
    with pytest.raises(ZeroDivisionError):
        broken.result(10)
    last.result(10)
    assert done == ["a worker"]


class Stream:
    """Has a worker, and gives it work of its own."""

    def __init__(self) -> None:
        self.worker = Worker("a worker")

    def work(self) -> bool:
        return True


@pytest.mark.parametrize("closed", [True, False])
def test_one_that_is_closed_or_forgotten_ends(closed: bool) -> None:
    before = set(threading.enumerate())
    stream = Stream()
    (thread,) = set(threading.enumerate()) - before
    assert stream.worker.begin(stream.work).result(10)
    if closed:
        stream.worker.close()
    else:
        del stream
    thread.join(10)
    assert not thread.is_alive()
