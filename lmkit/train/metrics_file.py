"""metrics_file: metrics.jsonl read back: cut where a resume goes on, and given out line by line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 4096  # bytes that are read of a file's end at a time


def read_metrics(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last one that a kill cut short is left out."""
    path = Path(path)
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if (entry := _parse(line)) is not None:
                    yield entry


def last_step(path: str | Path) -> int:
    """The step of the last whole line, 0 where there is none; reads the end only."""
    path = Path(path)
    if not path.exists():
        return 0
    with path.open("rb") as file:
        start, end = file.seek(0, os.SEEK_END), b""
        while start:
            stop, start = start, max(0, start - BLOCK)
            file.seek(start)
            end = file.read(stop - start) + end
            lines = end.splitlines(keepends=True)
            for line in reversed(lines[1:] if start else lines):  # the first may have lost its head
                if (entry := _parse(line)) is not None:
                    return entry["step"]
    return 0


def truncate_after(path: Path, step: int) -> None:
    """Cut off the lines behind `step`, and one that a kill left half written."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = len(content)
    # steps only grow, so the lines to go are the last ones
    while end:
        start = content.rfind(b"\n", 0, end - 1) + 1
        entry = _parse(content[start:end])
        if entry is not None and entry["step"] <= step:
            break
        end = start
    if end < len(content):
        os.truncate(path, end)


def _parse(line: bytes) -> dict[str, Any] | None:
    """None for a line that was not written to its end."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None
