"""eval_report: what `lmkit eval` has measured, as a table or as JSON; measures nothing itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from lmkit.evals import BitsPerByte, TaskResult, centered_mean
from lmkit.evals.core import CoreResult


@dataclass(frozen=True)
class Asked:
    """A task's result, and the seconds it took."""

    result: TaskResult
    seconds: float


@dataclass
class Measured:
    """All that was measured of one checkpoint.

    Attributes:
        checkpoint: its folder.
        step: where it stands in its run,
        stage: and in which stage.
        precision: what was computed in.
        split: whose problems were asked.
        asked: the tasks' results.
        core: the CORE metric and its tasks; None if it was not asked for.
        text: how well a text was predicted; None if none was.
    """

    checkpoint: str
    step: int
    stage: str
    precision: str
    split: str
    asked: list[Asked] = field(default_factory=list)
    core: CoreResult | None = None
    text: BitsPerByte | None = None

    def as_json(self) -> str:
        """One JSON object; `centered_mean` is null where there is no task."""
        about: dict[str, Any] = {
            "checkpoint": self.checkpoint,
            "step": self.step,
            "stage": self.stage,
            "precision": self.precision,
            "split": self.split,
            "tasks": [
                {**asdict(each.result), "centered": each.result.centered, "seconds": each.seconds}
                for each in self.asked
            ],
            "centered_mean": centered_mean(self._results) if self.asked else None,
            "core": None if self.core is None else asdict(self.core),
            "text": None if self.text is None else asdict(self.text),
        }
        return json.dumps(about, indent=2, allow_nan=False)

    def as_table(self) -> str:
        """Lines for a terminal: a task each, then the mean of several, then the text."""
        lines = [f"{self.checkpoint}, step {self.step:,}, computed in {self.precision}"]
        if self.asked:
            lines += ["", *self._tasks()]
        if self.core is not None:
            lines += ["", *self._core(self.core)]
        if self.text is not None:
            lines += ["", f"{self.text.bits_per_byte:.4f} bits a byte of {self.text.bytes:,} bytes"]
        return "\n".join(lines)

    @property
    def _results(self) -> list[TaskResult]:
        return [each.result for each in self.asked]

    def _tasks(self) -> Iterator[str]:
        width = max(len("mean of 10"), *(len(result.name) for result in self._results))
        head = "       n            accuracy    chance   centred     ended   seconds"
        yield f"{self.split:<{width}}{head}"
        for each in self.asked:
            result = each.result
            accuracy = f"{_percent(result.value)} ± {_percent(result.stderr).lstrip()}"
            ended = "" if result.ended is None else _percent(result.ended)
            yield (
                f"{result.name:<{width}}{result.count:>8,}{accuracy:>20}"
                f"{_percent(result.chance):>10}{_percent(result.centered):>10}"
                f"{ended:>10}{each.seconds:>10.1f}"
            )
            if result.at_k:
                shares = (f"pass@{k} {_percent(share)}" for k, share in result.at_k.items())
                yield f"  {', '.join(shares)}"
            if result.cut:
                yield f"  {result.cut:,} questions longer than the context: only the end was read"
        if len(self.asked) > 1:
            mean = _percent(centered_mean(self._results))
            yield f"{f'mean of {len(self.asked)}':<{width}}{mean:>48}"

    def _core(self, core: CoreResult) -> Iterator[str]:
        width = max(len(result.name) for result in core.tasks)
        yield f"{'CORE':<{width}}       n            accuracy    chance   centred"
        for result in core.tasks:
            accuracy = f"{_percent(result.value)} ± {_percent(result.stderr).lstrip()}"
            yield (
                f"{result.name:<{width}}{result.count:>8,}{accuracy:>20}"
                f"{_percent(result.chance):>10}{_percent(result.centered):>10}"
            )
        yield f"CORE {core.value:.4f} ± {core.stderr:.4f}, the mean of what is centred"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
