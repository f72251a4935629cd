"""worker: a thread that works ahead, which no process waits for when it ends; knows no data."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
Orders = SimpleQueue[Callable[[], None] | None]

LEAVING = 2.0  # seconds that the threads get to end when the process does
_working: weakref.WeakKeyDictionary[threading.Thread, Orders] = weakref.WeakKeyDictionary()


class Worker:
    """A thread that does one thing after another, until it is told to `close`, or forgotten.

    Python's own pool is joined when the process ends, and what is waited for in it, a download or a
    disk, may not come.
    """

    def __init__(self, name: str) -> None:
        self._orders: Orders = SimpleQueue()
        thread = threading.Thread(target=_work, args=[self._orders], name=name, daemon=True)
        thread.start()
        _working[thread] = self._orders
        self.close = weakref.finalize(self, self._orders.put, None)

    def begin(self, work: Callable[[], T]) -> Future[T]:
        """Have `work` done when all that was begun before is; gives what will be its result."""
        future: Future[T] = Future()
        self._orders.put(partial(_do, future, work))
        return future


def _work(orders: Orders) -> None:
    while (order := orders.get()) is not None:
        order()
        order = None  # it holds on to what the worker belongs to


def _do(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # it is raised again where the result is asked for
        future.set_exception(error)


@atexit.register
def _leave() -> None:
    """Wait a moment: one that is inside Arrow while the interpreter is taken down could abort the
    process. Those that tokenise fail at their next piece, as no pool takes work now."""
    deadline = time.monotonic() + LEAVING
    for thread, orders in list(_working.items()):
        orders.put(None)
        thread.join(max(0.0, deadline - time.monotonic()))
