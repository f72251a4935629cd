"""summary: the table at a run's end, made from its metrics.jsonl; a row a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmkit.train.display import readable_count, readable_time
from lmkit.train.metrics_file import read_metrics

LAST = 10  # steps that the final loss is averaged over: one batch more or less must not decide it
LOSSES = ("loss", "bits_per_byte")
COLUMNS = [
    "stage",
    "steps",
    "tokens",
    "time",
    "tokens/s",
    "loss",
    "bits/byte",
    "held-out bits/byte",
]


@dataclass
class _Stage:
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    last: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rewarded(self) -> bool:
        """Its loss is of answers of its own: the mean of their advantages, which tells nothing."""
        return "reward" in self.last

    @property
    def tasks(self) -> list[str]:
        """What it was asked at its evaluations."""
        ends = "_stderr"
        return [key[len("validation_") : -len(ends)] for key in self.last if key.endswith(ends)]

    def add(self, entry: Mapping[str, Any]) -> None:
        self.steps += "seconds" in entry  # a line of an evaluation alone is no step
        self.tokens += entry.get("tokens", 0)
        self.seconds += entry.get("seconds", 0.0)
        for key, value in entry.items():
            if isinstance(value, float):
                self.last[key] = [*self.last.get(key, ())[-LAST + 1 :], value]

    def row(self, name: str, rewards: bool, tasks: Sequence[str]) -> list[str]:
        """As many cells as `COLUMNS`, one more if there are rewards, and one a task."""
        speed = self.tokens / self.seconds if self.seconds else 0.0
        validation = self.last.get("validation_bits_per_byte", ())[-1:]
        losses = [() if self.rewarded else self.last.get(key, ()) for key in LOSSES]
        return [
            name,
            f"{self.steps:,}",
            readable_count(self.tokens),
            readable_time(self.seconds),
            readable_count(speed),
            *map(_mean, losses),
            _mean(validation),
            *([_mean(self.last.get("reward", ()))] if rewards else []),
            *(self._of_task(task) for task in tasks),
        ]

    def _of_task(self, task: str) -> str:
        """`0.850 ±0.025`: how it did last, and the standard error."""
        value, error = (self.last.get(f"validation_{task}{end}") for end in ("", "_stderr"))
        return f"{value[-1]:.3f} ±{error[-1]:.3f}" if value and error else "-"


def summarize(path: str | Path) -> str:
    """The table of a metrics.jsonl. Losses and rewards are means over the last ten steps."""
    stages: dict[str, _Stage] = {}
    for entry in read_metrics(path):
        stages.setdefault(str(entry.get("stage", "")), _Stage()).add(entry)
    rewards = any(stage.rewarded for stage in stages.values())
    tasks = list(dict.fromkeys(task for stage in stages.values() for task in stage.tasks))
    head = [*COLUMNS, *["reward"] * rewards, *tasks]
    return format_table(
        [head, *(stage.row(name, rewards, tasks) for name, stage in stages.items())]
    )


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns under each other, the first to the left, the others to the right; a ruled head."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.4f}" if values else "-"
