"""table: what a benchmark found, as aligned columns or Markdown, and as JSON; measures nothing."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contest import Result, median
from benchmarks.machine import describe


@dataclass
class Report:
    """The rows of one benchmark.

    Args:
        benchmark: its name.
        arguments: of the command line; of it are used json, markdown and device.
        settings: what else is to be known of how it was measured.
    """

    benchmark: str
    arguments: argparse.Namespace
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    contests: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, **cells: Any) -> None:
        """A row; rows with the same cells stand in one table."""
        self.rows.append(cells)

    def note(self, name: str, result: Result) -> None:
        """Keep a contest's rounds, the machine's rates in it, and who failed."""
        self.contests[name] = result.as_json()
        self.failed |= {f"{name}: {who}": why for who, why in result.failed.items()}

    def finish(self) -> int:
        """Print the tables, write the JSON; the exit code is 1 if a contestant failed."""
        about = describe(self.arguments.device)
        print("\n" + ", ".join(f"{key} {value}" for key, value in about.items() if value))
        units = {"read": "GB/s"}
        rates = [
            f"{key} {rate / 1e9:,.0f} {units.get(key, 'GFLOP/s')}"
            for key, rate in self._rates().items()
        ]
        if rates:
            print(f"the machine itself, medians: {', '.join(rates)}")
        tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in self.rows:
            tables.setdefault(tuple(row), []).append(row)
        for rows in tables.values():
            print("\n" + render(rows, markdown=self.arguments.markdown))
        for who, why in self.failed.items():
            print(f"failed: {who}: {why}")
        self.save()
        return 1 if self.failed else 0

    def save(self) -> None:
        """Write the JSON, whole or not at all; nothing if none was asked for."""
        if not self.arguments.json:
            return
        about = {
            "benchmark": self.benchmark,
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "machine": describe(self.arguments.device),
            "rates": self._rates(),
            "settings": self.settings,
            "rows": self.rows,
            "contests": self.contests,
            "failed": self.failed,
        }
        file = Path(self.arguments.json)
        file.parent.mkdir(parents=True, exist_ok=True)
        half = file.with_name(f"{file.name}.part")
        half.write_text(json.dumps(_plain(about), indent=1, allow_nan=False) + "\n")
        os.replace(half, file)

    def _rates(self) -> dict[str, float]:
        """What the machine itself did: the medians over the rounds of all contests."""
        probes: dict[str, list[float]] = {}
        for contest in self.contests.values():
            for key, rates in contest["machine"].items():
                probes.setdefault(key, []).extend(rates)
        return {key: median(rates) for key, rates in probes.items()}


def render(rows: Sequence[Mapping[str, Any]], *, markdown: bool = False) -> str:
    """A table of `rows`, which have the same keys: text to the left, numbers to the right."""
    columns = list(rows[0])
    lines = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    is_text = [all(isinstance(row[c], str) for row in rows) for c in columns]
    padded = [
        [
            c.ljust(w) if left else c.rjust(w)
            for c, w, left in zip(line, widths, is_text, strict=True)
        ]
        for line in lines
    ]
    if markdown:
        rule = [
            "-" * w if left else "-" * (w - 1) + ":"
            for w, left in zip(widths, is_text, strict=True)
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])
    text = ["  ".join(line).rstrip() for line in padded]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def _cell(value: object) -> str:
    """A number with four digits that count; `-` for one that there is not."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if math.isnan(value):
        return "-"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{value:,.{digits}f}"


def _plain(value: Any) -> Any:
    """JSON has no NaN: what was not measured is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
