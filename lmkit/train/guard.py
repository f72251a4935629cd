"""guard: who asks a run to stop, a signal or the clock, and where the run looks whether it was
asked.

A signal only sets a flag, and the run looks at it where it can leave without loss: between two
steps, and at every forward pass of an evaluation or a rollout. State caught inside a handler was
torn in 39 of 40 trials, and a KeyboardInterrupt in `optimizer.step` left parameters at different
steps in 30 of 30.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lmkit.errors import ConfigError, Stopped
from lmkit.train.watchdog import Watchdog

if TYPE_CHECKING:
    from torch import nn

    from lmkit.ranks.world import World

# SIGUSR1 is what schedulers send some time before they take the machine away (Slurm's --signal),
# SIGHUP what a terminal does that is closed, or loses its line.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
TIME_IS_UP = signal.SIGALRM
# One Ctrl+C reaches a rank twice, from the terminal and from torchrun, milliseconds apart.
ONE_REQUEST = 1.0  # seconds


def exit_code_of(number: int) -> int:
    """129 after SIGHUP, 130 after Ctrl+C, 142 when the time limit is reached, else 143.

    A time limit has a code of its own, and not 0: the run is not finished, and a chain of jobs
    goes on for as long as it is seen.
    """
    codes = {signal.SIGHUP: 129, signal.SIGINT: 130, TIME_IS_UP: 142}
    return codes.get(signal.Signals(number), 143)


class StopAsked(BaseException):
    """The run leaves from here, and all ranks have agreed; `number` is the signal's. No `except
    Exception` of a task or a reward holds it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def check_headway(self, taken_up: str | None, comes_next: str) -> None:
        """Refuse to leave for want of time where this start took the run up: the next one would
        leave there too, and so on for ever.

        Args:
            taken_up: what came next then; None where the run was begun.

        Raises:
            ConfigError: it comes next still.
        """
        if self.number == TIME_IS_UP and comes_next == taken_up:
            raise ConfigError(
                f"the time limit is too short for {comes_next}: the run would never get past it",
                hint="more runner.time_limit, or less to do in it",
            ) from None

    def stopped(self, step: int, folder: Path) -> Stopped:
        """What to end with once everything is saved."""
        what = f"stopped at step {step}, saved in {folder}"
        hint = "the same command goes on from there"
        return Stopped(what, hint=hint, exit_code=exit_code_of(self.number))


class StopFlag:
    """While the `with` block runs, SIGINT, SIGTERM, SIGUSR1 and SIGHUP set `signal`; SIGHUP not
    where it is ignored, as nohup has it.

    Until `hold` is called they also interrupt what is under way, as there is no state yet that
    could be torn: the block then ends with Stopped. A second SIGINT or SIGTERM leaves at once,
    without saving: checkpoints are whole at any moment, so the last one stays good. The handlers
    that were there before come back afterwards.

    Args:
        time_limit: seconds from here on after which it is as if a signal had come.

    Raises:
        ConfigError: a time limit outside the main thread, which alone can be interrupted.
    """

    def __init__(self, time_limit: float | None = None) -> None:
        self.signal: signal.Signals | None = None
        self._time_limit = time_limit
        self._deadline = math.inf
        self._holds = False
        self._asked_at = math.inf
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        timed = self._time_limit is not None
        # Python allows handlers in the main thread only
        if threading.current_thread() is threading.main_thread():
            for number in (*SIGNALS, TIME_IS_UP) if timed else SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        elif timed:
            raise ConfigError("time_limit is for a run in the main thread", key="time_limit")
        if self._time_limit is not None:
            self._deadline = time.monotonic() + self._time_limit
            self.leave_room(0)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._time_limit is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            # None: a handler that was installed from C, which Python cannot put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()
        if isinstance(error, KeyboardInterrupt) and self.signal and not self._holds:
            raise Stopped(
                "stopped before the first step",
                hint="the same command begins again",
                exit_code=self.exit_code,
            ) from None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """`exit_code_of` the signal that asked to stop; 0 if none did."""
        return 0 if self.signal is None else exit_code_of(self.signal)

    def hold(self) -> None:
        """From here on nothing is interrupted: the run looks by itself."""
        self._holds = True

    def leave_room(self, seconds: float) -> None:
        """Have the time limit reached so much earlier: that long it takes to leave."""
        if self._deadline < math.inf and self.signal is None:
            left = self._deadline - time.monotonic() - seconds
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number in (signal.SIGINT, signal.SIGTERM):
            if now - self._asked_at > ONE_REQUEST:
                os._exit(128 + number)
            self._asked_at = min(self._asked_at, now)
        if self.signal is None:
            self.signal = signal.Signals(number)
            reason = "time_limit" if number == TIME_IS_UP else self.signal.name
            said = f"\n{reason}: stopping; once more leaves at once\n"
            with suppress(OSError):  # nobody reads stderr any more
                os.write(2, said.encode())  # a print inside a print is an error
            if not self._holds:
                raise KeyboardInterrupt


class Guard:
    """The signals, the clock and the watchdog of a run, as its loop sees them.

    Args:
        patience: seconds without a sign of life, after which the watchdog ends the process.
        folder: the run's; gets the stacks of the threads that hung.
        world: leaves together.
    """

    def __init__(self, stop: StopFlag, patience: float | None, folder: Path, world: World) -> None:
        self.stop = stop
        self.world = world
        stacks = folder / f"watchdog-rank-{world.rank}.txt"
        self._watchdog = Watchdog(patience, stacks, world.tell)
        self.beat = self._watchdog.beat
        self._may_leave = True
        self._room = 0.0

    def __enter__(self) -> Guard:
        self._watchdog.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.__exit__()

    @contextmanager
    def during(self, doing: str, model: nn.Module, *, may_leave: bool) -> Iterator[None]:
        """Look at every pass through the model inside, or through one of its parts, as a loss of
        its own may pass by its `forward`: whatever takes long in an evaluation or a rollout is one.

        A process that is alone leaves there, by StopAsked. Several ranks would not all be there:
        they leave where they `meet`.

        Args:
            doing: what the watchdog says of it.
            may_leave: False: it could not be made again, so it is not left.
        """
        self.beat(doing)
        before, self._may_leave = self._may_leave, may_leave
        handles = [
            module.register_forward_pre_hook(lambda module, inputs: self._passes())
            for module in (model, *model.children())
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._may_leave = before

    def meet(self) -> None:
        """Raise StopAsked on all ranks if any of them was asked; every rank has to come here."""
        self.beat()
        number = int(self.world.max(self.stop.signal or 0))
        if number and self._may_leave:
            raise StopAsked(number)

    def keep_room(self, seconds: float) -> None:
        """To make a step and save takes so long: reckon with the longest so far."""
        self._room = max(self._room, seconds)
        self.stop.leave_room(self._room)

    def look(self) -> None:
        """As `during` at every pass through the model; to be called where something is waited for,
        which is no sign of life."""
        if self.stop.signal and self._may_leave and self.world.size == 1:
            raise StopAsked(self.stop.signal)

    def _passes(self) -> None:
        self.beat()
        self.look()
