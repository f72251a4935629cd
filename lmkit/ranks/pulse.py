"""pulse: a thread that shows the other ranks that this one lives, and ends this one when another
has failed and it does not notice.

A collective waits for a rank that is stopped or cut off until its timeout, and a rank that is
still on its way to the first collective is not even waited for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress

from lmkit.errors import DistributedError
from lmkit.ranks.board import LEFT, Board, Failure

BEAT = 1.0  # seconds between two beats
# Beats that a rank may miss: a second of Python's lock held elsewhere, a swapping machine, a
# network that hesitates are no failure.
SILENCE = 20
GRACE = 10  # beats in which a rank may end by itself when another has failed; with SILENCE 30 s


class Pulse:
    """Beats on the board every second; watches the next rank, and whether any has failed.

    Beats are counted, not the clock: ranks that are stopped and go on together have not been
    silent, nor has a machine that slept.

    Args:
        board: with a connection of its own: one that waits would hold up the beats.
        host: this machine's name.
        describe: what a rank says of a failure of another.
    """

    def __init__(self, board: Board, host: str, describe: Callable[[Failure], str]) -> None:
        self.board = board
        self.host = host
        self.describe = describe
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread: while the interpreter shuts down, one in C++ would abort it."""
        self._ended.set()
        self._thread.join(2 * BEAT)

    def _run(self) -> None:
        next_rank = (self.board.rank + 1) % self.board.size
        number, silent, last, over = 0, 0, b"", 0
        failure: Failure | None = None
        while not self._ended.wait(BEAT):
            number += 1
            try:
                self.board.beat(number)
                beat = self.board.beat_of(next_rank)
                silent = silent + 1 if beat == last != LEFT else 0
                last = beat
                failure = self.board.failure()
                if silent >= SILENCE and failure is None:
                    line = f"not heard of for {silent * BEAT:.0f} s: killed, stopped or cut off"
                    failure = self.board.fail(self._failure(next_rank, line))
            except RuntimeError as error:
                said = str(error).partition("\n")[0]
                line = f"lost the store through which the ranks hear of each other: {said}"
                failure = self._failure(self.board.rank, line)
            over = over + 1 if failure else 0
            if failure and over > GRACE:
                self._end(failure)

    def _failure(self, rank: int, line: str) -> Failure:
        return Failure(rank, line, by=self.board.rank, host=self.host)

    def _end(self, failure: Failure) -> None:
        """The main thread waits in a collective that nobody will come to."""
        speaks = True
        with suppress(RuntimeError):
            speaks = self.board.speaks(self.host, failure)
        if speaks:
            os.write(2, f"error: {self.describe(failure)}\n".encode())
        os._exit(DistributedError.exit_code)
