"""profile: some steps under torch.profiler, as a trace and a table; knows no runner.

The first steps are left out: they compile, fill caches and choose kernels. What Python does between
two operators belongs to none of them and stands in a row of its own.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmkit.train.summary import format_table

logger = logging.getLogger(__name__)

WARM_UP = 3  # steps
ROWS = 20
TRACE, TABLE = "trace.json.gz", "operators.txt"
BETWEEN = "(between operators)"


class Profile:
    """Watches `steps` steps of this process, after three that it lets pass.

    Args:
        folder: gets the trace, which chrome://tracing and https://ui.perfetto.dev open, and the
            table; those of an earlier profile are replaced.
        say: prints the table.
    """

    def __init__(
        self, folder: Path, steps: int, device: torch.device, say: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.steps = steps
        self.device = device
        self._say = say
        self._seen = -WARM_UP  # steps that were watched
        self._profiler: torch.profiler.profile | None = None
        self._started = 0.0

    def after_step(self, *, last: bool = False) -> None:
        """Count a step that is over. Call it right behind the step: what follows is not watched.

        Args:
            last: no step follows, so that what there is has to do.
        """
        self._seen += 1
        if self._profiler is not None and (self._seen == self.steps or last):
            self._finish(self._seen)
        elif self._seen == 0 and not last:
            self._start()
        elif self._seen <= 0 and last:
            self._say(f"nothing was profiled: the first {WARM_UP} steps are for warming up")

    def close(self) -> None:
        """Stop watching, if steps were still to come; what was seen of them is dropped."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _start(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # its start and stop are no news
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(activities=activities)
        self._profiler.start()
        self._synchronize()
        self._started = time.perf_counter()

    def _finish(self, steps: int) -> None:
        assert self._profiler is not None
        self._synchronize()
        seconds = (time.perf_counter() - self._started) / steps
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        operators = operators_of(profiler.key_averages(), self.device, steps)
        text = table(operators, steps, seconds, self.device)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(self.folder / TRACE))
            (self.folder / TABLE).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            logger.warning("%s: the profile was not written: %s", self.folder, error)
        else:
            text += f"\n{self.folder / TRACE} opens in https://ui.perfetto.dev"
        self._say(text)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Operator:
    """What runs under one name: `calls` and `seconds` a step, without the time of what it calls."""

    name: str
    calls: float
    seconds: float


def operators_of(events: Any, device: torch.device, steps: int) -> list[Operator]:
    """The operators, the longest first; on a GPU its kernels, which are what a step waits for.

    Args:
        events: a profiler's `key_averages()`.
    """
    on_gpu = device.type == "cuda"
    kinds = torch.autograd.DeviceType
    found = [
        Operator(
            event.key,
            event.count / steps,
            (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6 / steps,
        )
        for event in events
        if event.device_type == (kinds.CUDA if on_gpu else kinds.CPU)
        and not (on_gpu and event.is_user_annotation)  # spans over kernels that have their own row
    ]
    return sorted(found, key=lambda operator: -operator.seconds)


def table(operators: list[Operator], steps: int, seconds: float, device: torch.device) -> str:
    """The first twenty operators, with the share that each has of a step of `seconds`."""
    rest = operators[ROWS:]
    shown = operators[:ROWS]
    if rest:
        others = f"({len(rest)} others)"
        shown.append(Operator(others, sum(o.calls for o in rest), sum(o.seconds for o in rest)))
    between = max(0.0, seconds - sum(operator.seconds for operator in operators))
    rows = [
        [o.name[:60], f"{o.calls:,.4g}", f"{o.seconds * 1e3:,.3f}", f"{o.seconds / seconds:.1%}"]
        for o in shown
    ]
    rows.append([BETWEEN, "", f"{between * 1e3:,.3f}", f"{between / seconds:.1%}"])
    head = [["operator" if device.type != "cuda" else "kernel", "calls", "ms", "share"]]
    about = f"profile of {steps} steps, {seconds * 1e3:,.1f} ms each, by what a step takes itself"
    return f"{about}\n{format_table([*head, *rows])}"
