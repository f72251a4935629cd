"""killed_run: an experiment run in processes of its own, and killed; judges nothing."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmkit.errors import LMKitError
from lmkit.train.metrics import FILE
from lmkit.train.metrics_file import last_step

POLL = 0.005  # seconds between two looks at how far a run is


class RunFailed(LMKitError):
    """A run ended by itself, and not well."""

    exit_code = 1


@dataclass(frozen=True)
class Kill:
    """A SIGKILL that a run got.

    Attributes:
        step: the last one that it had written a line of,
        starting: before it was killed, in the life of another process: this one had just begun.
    """

    step: int
    starting: bool


class KilledRun:
    """One run, whose processes are started as often as it takes.

    Args:
        command: what stands after `lmkit train`; it names `out`,
        out: the run's folder.
        ranks: processes at a time; several are started by torchrun, and killed together.
    """

    def __init__(self, command: Sequence[str], out: Path, ranks: int = 1) -> None:
        launch = [sys.executable, "-m"]
        if ranks > 1:
            launch += ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
        self._command = [*launch, "lmkit", "train", *command]
        self._out = out
        self._said = out.with_name(f"{out.name}.log")

    def straight(self) -> tuple[float, float]:
        """To the end, undisturbed.

        Returns:
            seconds to the first step, and in all.

        Raises:
            RunFailed: it ended with an error.
        """
        started = time.monotonic()
        process = self._start()
        self._wait(math.inf, 1, process)
        first = time.monotonic() - started
        self._finish(process)
        return first, time.monotonic() - started

    def killed(
        self, kills: int, steps: int, first: float, seconds: float, seed: int
    ) -> Iterator[Kill]:
        """To the end, with SIGKILL at random moments; each is told of as it comes.

        Two of three come after a random step, the third while the next process starts.

        Args:
            kills: how many; fewer if the run is done before.
            steps: of the whole run.
            first: seconds to the first step,
            seconds: and in all, as `straight` gives them.

        Raises:
            RunFailed: it ended with an error.
        """
        draw = random.Random(seed)
        after = sorted(draw.randrange(steps) for _ in range(kills))
        after = [after[i - 1] if i % 3 == 2 else step for i, step in enumerate(after)]
        pace = max(seconds - first, 0.0) / steps
        for step in after:
            process = self._start()
            starting = self._step() >= step > 0
            self._wait(math.inf, step, process)
            moment = draw.uniform(0, first if starting or not step else 2 * pace)
            # two steps on at the latest: the straight run may have been slower, as one is that
            # tokenises the data
            self._wait(moment, self._step() + 2, process)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                yield Kill(self._step(), starting)
            else:
                self._finish(process)
        self._finish(self._start())

    def _start(self) -> subprocess.Popen[bytes]:
        with self._said.open("wb") as said:
            return subprocess.Popen(
                self._command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _wait(self, seconds: float, step: int, process: subprocess.Popen[bytes]) -> None:
        """So long, or until the step is there or the process has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._step() < step and process.poll() is None:
            time.sleep(POLL)

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        if code := process.wait():
            lines = self._said.read_text(errors="replace").splitlines()
            errors = [line for line in lines if line.startswith("error:")] or lines[-1:]
            raise RunFailed(
                f"ended with exit code {code}: {' '.join(errors[:1])}",
                hint=f"all it said is in {self._said}",
                at=self._out,
            )

    def _step(self) -> int:
        return last_step(self._out / FILE)
