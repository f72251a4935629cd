"""stopwatch: the seconds that calls take, added up by part; knows not what is called."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch


class Stopwatch:
    """Times calls, in any thread. A call inside of another that is timed too counts for its own
    part and not for the other's, so that the parts add up.

    A call costs some 1e-6 s more for being timed.

    Args:
        clock: what time it is; `time.thread_time` for what a thread takes of the processor.

    Attributes:
        seconds: by part.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock
        self._inside = threading.local()
        self._adding = threading.Lock()

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, whose calls count for `part`; entering and leaving what it gives to a `with`
        count as well."""

        def do(*arguments: Any, **keywords: Any) -> Any:
            with self._counting(part):
                found = work(*arguments, **keywords)
            return self._around(part, found) if hasattr(found, "__exit__") else found

        return do

    @contextmanager
    def watching(self, parts: Mapping[tuple[Any, str], str]) -> Iterator[None]:
        """Time methods and functions while the block runs: {(where it is, its name): part}."""
        with ExitStack() as stack:
            for (owner, name), part in parts.items():
                work = self.timed(part, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, work))
            yield

    @contextmanager
    def _around(self, part: str, manager: AbstractContextManager[Any]) -> Iterator[Any]:
        with self._counting(part):
            given = manager.__enter__()
        try:
            yield given
        finally:
            with self._counting(part):
                manager.__exit__(None, None, None)

    @contextmanager
    def _counting(self, part: str) -> Iterator[None]:
        outer = getattr(self._inside, "seconds", 0.0)
        self._inside.seconds = 0.0
        started = self._clock()
        try:
            yield
        finally:
            passed = self._clock() - started
            with self._adding:
                self.seconds[part] += passed - self._inside.seconds
            self._inside.seconds = outer + passed
