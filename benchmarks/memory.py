"""memory: what this process holds of the machine's memory, as Linux counts it."""

from __future__ import annotations

import math
import re
from pathlib import Path


def resident(what: str) -> float:
    """Bytes in memory; NaN where the kernel does not tell.

    Args:
        what: VmRSS (all), RssAnon (its own), RssFile (mapped files), VmHWM (all, at the highest
            since `reset_peak`).
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return math.nan
    found = re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else math.nan


def reset_peak() -> None:
    """Let VmHWM begin anew; where the kernel refuses, it stays that of the process' whole life."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
