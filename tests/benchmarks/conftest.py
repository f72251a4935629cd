"""benchmarks/ stands beside the package: it is importable from the source's root only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import lmkit

ROOT = Path(lmkit.__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A file that a small model can learn something of."""
    file = tmp_path / "text.txt"
    file.write_text("".join(f"{i} and {i} is {2 * i}.\n" for i in range(400)))
    return str(file)


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contests in this process, a round each: one of its own would import torch every time."""
    from benchmarks.contest import Contestant, Result, load

    def compete(contestants: list[Contestant], *, unit: str, watch: Any = None, **_: Any) -> Result:
        rounds = {c.name: [load(c.entry)(**c.arguments).round(0)] for c in contestants}
        result = Result(unit, rounds)
        if watch:
            watch(result)
        return result

    for name in ("generate", "data", "tokenizer", "checkpoint", "guards", "startup"):
        monkeypatch.setattr(f"benchmarks.{name}.compete", compete)
