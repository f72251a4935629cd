"""TensorBoard reads what was written, and a folder it cannot have stops nothing."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from lmkit.model import Loss
from lmkit.train.events import EventLog
from lmkit.train.metrics import Metrics


def events(folder: Path) -> list[Any]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [
        event for path in sorted(folder.iterdir()) for event in EventFileLoader(str(path)).Load()
    ]


def test_scalars_and_texts_are_read_back(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.scalars(3, {"a/loss": 1.5, "a/rate": 0.25})
    log.text(4, "a/sample", "def f():\n    pass")
    log.close()
    version, scalars, text = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    found = {value.tag: value.tensor.float_val[0] for value in scalars.summary.value}
    assert (scalars.step, found) == (3, {"a/loss": 1.5, "a/rate": 0.25})
    assert text.summary.value[0].tensor.string_val[0] == b"    def f():\n        pass\n"
    assert text.summary.value[0].metadata.plugin_data.plugin_name == "text"


def test_after_a_resume_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resume, steps, total in ((None, range(1, 8), 1.0), (4, range(5, 9), 2.0)):
        with Metrics(tmp_path, resume) as metrics:
            metrics.begin_stage("a", 9)
            for step in steps:
                metrics.step(step, Loss(torch.tensor(total), 1, 0), tokens=1, seconds=1)
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    series = [(e.step, e.value) for e in accumulator.Scalars("a/loss")]
    assert series == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 2)]


def test_a_folder_that_cannot_be_made_only_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with caplog.at_level(logging.WARNING), Metrics(tmp_path) as metrics:
        metrics.begin_stage("a", 9)
        for step in (1, 2, 3):
            metrics.step(step, Loss(torch.tensor(1.0), 1, 1), tokens=1, seconds=1)
    assert caplog.text.count("no more TensorBoard events") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_disk_that_fills_up_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = EventLog(tmp_path)
    log.scalars(1, {"a": 1.0})

    def full(_: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log._records, "write", full)
    for step in (2, 3):
        log.scalars(step, {"a": 1.0})
    log.close()
    assert caplog.text.count("No space left") == 1
    assert len(events(tmp_path)) == 2
