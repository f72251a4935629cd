"""watchdog: a run in which nothing happens any more ends with an error, and says where it hung."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lmkit.errors import DistributedError

LOOKS = 20  # within the limit; so many times it wakes up
TELLING = 30.0  # seconds that the other ranks get to hear of it; the way to them may hang as well


class Watchdog:
    """A thread that ends the process, with exit code 5, when no `beat` came for `limit` seconds.

    A collective that waits for a rank that is gone, a loader that waits for a disk: Python cannot
    interrupt them, and nobody may look at the run for days. The stack of every thread is written to
    stderr and to a file. The last checkpoint stays good, and the same command goes on from it.

    Its looks are counted, not the clock: a process that was stopped, or slept with its machine, did
    not hang.

    Args:
        limit: seconds; None watches nothing.
        file: gets the stacks.
        tell: hears of the error before the process ends; gives the line to print, or None.
    """

    def __init__(
        self, limit: float | None, file: Path, tell: Callable[[Exception], str | None] = str
    ) -> None:
        self.limit = limit
        self.file = file
        self._tell = tell
        self._doing = "the start"
        self._looks = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self.limit is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self.limit is not None:
            self._thread.join()

    def beat(self, doing: str | None = None) -> None:
        """Something has happened; `doing` names what comes now, where that is something else."""
        self._doing = doing or self._doing
        self._looks = 0

    def _watch(self) -> None:
        assert self.limit is not None
        while not self._ended.wait(self.limit / LOOKS):
            self._looks += 1
            if self._looks > LOOKS:
                self._end()

    def _end(self) -> None:
        error = DistributedError(
            f"nothing has happened for {self.limit:g} s: it hangs in {self._doing}",
            hint=f"{self.file} says where each thread is; the same command goes on from the last "
            "checkpoint, and runner.watchdog sets another limit",
        )
        # a full disk is no reason to hang on
        with suppress(OSError), self.file.open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file)
        with suppress(OSError, ValueError):
            faulthandler.dump_traceback(sys.__stderr__ or 2)
        lines: list[str | None] = [str(error)]
        telling = threading.Thread(target=lambda: lines.append(self._tell(error)), daemon=True)
        telling.start()
        telling.join(TELLING)
        if lines[-1] is not None:
            with suppress(OSError):
                os.write(2, f"error: {lines[-1]}\n".encode())
        os._exit(error.exit_code)
