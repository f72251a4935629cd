"""The table at a run's end: a row a stage, with what it was asked and what it was rewarded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmkit.train.summary import COLUMNS, summarize


def table(folder: Path, *lines: dict[str, Any]) -> dict[str, list[str]]:
    """Cells by the first one of their row."""
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    head, _, *rows = summarize(file).splitlines()
    return {line.split("  ")[0]: [c.strip() for c in line.split("  ") if c.strip()][1:]
            for line in (head, *rows)}  # fmt: skip


def step(number: int, stage: str, **values: Any) -> dict[str, Any]:
    return {"step": number, "stage": stage, "loss": 2.0, "bits_per_byte": 1.0, "tokens": 10,
            "seconds": 1.0, **values}  # fmt: skip


def test_a_stage_that_is_only_trained_has_the_usual_columns(tmp_path: Path) -> None:
    found = table(tmp_path, step(1, "pretrain"), step(2, "pretrain", validation_bits_per_byte=1.5))
    assert found["stage"] == COLUMNS[1:]
    assert found["pretrain"] == ["2", "20", "2.0s", "10", "2.0000", "1.0000", "1.5000"]


def test_tasks_and_rewards_have_their_own(tmp_path: Path) -> None:
    sums = {"validation_sums": 0.5, "validation_sums_stderr": 0.05, "validation_sums_ended": 1.0}
    found = table(
        tmp_path,
        step(1, "sft", **sums),
        step(2, "rl", reward=0.25),
        step(
            3, "rl", reward=0.75, **{**sums, "validation_sums": 1.0, "validation_sums_stderr": 0.0}
        ),
    )
    assert found["stage"] == [*COLUMNS[1:], "reward", "sums"]
    assert found["sft"][4:] == ["2.0000", "1.0000", "-", "-", "0.500 ±0.050"]
    # the loss of answers of its own tells nothing
    assert found["rl"][4:] == ["-", "-", "-", "0.5000", "1.000 ±0.000"]
