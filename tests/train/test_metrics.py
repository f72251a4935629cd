"""A line a step, none twice, whatever was killed; nothing on the device is waited for."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.errors import StorageError
from lmkit.model import Loss
from lmkit.train.metrics import FILE, Metrics
from lmkit.train.metrics_file import last_step, read_metrics, truncate_after


def loss(total: float, count: int = 2, n_bytes: int = 4) -> Loss:
    return Loss(torch.tensor(total), count, n_bytes, checksum=42)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def run(folder: Path, steps: range, resume: int | None = None) -> None:
    with Metrics(folder, resume) as metrics:
        metrics.begin_stage("a", 10, steps.start)
        for step in steps:
            metrics.step(step, loss(step), tokens=8, seconds=0.5)


def test_a_step_is_a_line_with_what_was_measured(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.begin_stage("pretrain", 5)
        metrics.step(
            1, loss(3.0), tokens=8, seconds=0.5, waited=0.1, grad_norm=torch.tensor(2.0),
            rates={"Muon": 0.02}, skipped=False,
        )  # fmt: skip
    assert lines(tmp_path) == [
        {
            "step": 1, "stage": "pretrain", "loss": 1.5,
            "bits_per_byte": pytest.approx(3 / math.log(2) / 4), "grad_norm": 2.0,
            "rate_Muon": 0.02, "tokens": 8, "data": "0000002a", "seconds": 0.5, "waited": 0.1,
            "skipped": False,
        }
    ]  # fmt: skip


def test_a_loss_is_read_one_step_late(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.begin_stage("a", 5)
        for step in (1, 2, 3):
            metrics.step(step, loss(step), tokens=1, seconds=1)
            assert [line["step"] for line in lines(tmp_path)] == list(range(1, step))
        metrics.flush()
        assert len(lines(tmp_path)) == 3


def test_a_tensor_that_changes_later_was_recorded_as_it_was(tmp_path: Path) -> None:
    norm = torch.tensor(1.0)
    with Metrics(tmp_path) as metrics:
        metrics.step(1, loss(1), tokens=1, seconds=1, grad_norm=norm)
        norm.zero_()
    assert lines(tmp_path)[0]["grad_norm"] == 1.0


def test_what_json_cannot_say_is_null(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.begin_stage("a", 5)
        metrics.step(1, loss(math.nan), tokens=1, seconds=1, grad_norm=torch.tensor(math.inf))
        metrics.step(2, loss(1.0, count=0, n_bytes=0), tokens=1, seconds=1)
    first, second = lines(tmp_path)
    assert first["loss"] is first["grad_norm"] is first["bits_per_byte"] is None
    assert second["loss"] is second["bits_per_byte"] is None
    assert "NaN" not in (tmp_path / FILE).read_text()


def test_an_evaluation_joins_the_line_of_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.evaluation(0, "a", {"bits_per_byte": 8.0})
        metrics.begin_stage("a", 5)
        metrics.step(1, loss(2), tokens=1, seconds=1)
        metrics.evaluation(1, "a", {"bits_per_byte": 1.5}, [("def ", "main():")])
        metrics.step(2, loss(2), tokens=1, seconds=1)
    found = [(line["step"], line.get("validation_bits_per_byte")) for line in lines(tmp_path)]
    assert found == [(0, 8.0), (1, 1.5), (2, None)]
    assert [line.get("samples") for line in lines(tmp_path)] == [None, [["def ", "main():"]], None]
    said = capsys.readouterr().err
    assert "step 1, validation: bits_per_byte 1.5000" in said
    assert "--- def ▸main():\n---\n" in said


def test_a_run_says_what_it_is_and_where_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for resume, said in (
        (None, f"{tmp_path}: 3.67M parameters on cpu in bf16, 1,367 steps\n"),
        (150, f"{tmp_path} goes on from step 150 of 1,367: 3.67M parameters on cpu in bf16\n"),
        (1367, ""),  # finished
    ):
        with Metrics(tmp_path, resume) as metrics:
            metrics.begin_run(1367, 3_670_000, "on cpu in bf16")
        assert capsys.readouterr().err == said


def test_a_resumed_run_writes_no_step_twice(tmp_path: Path) -> None:
    run(tmp_path, range(1, 8))
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:-5])  # killed while writing
    run(tmp_path, range(5, 8), resume=4)
    assert (tmp_path / FILE).read_bytes() == whole


def test_a_run_that_begins_anew_drops_the_old_lines(tmp_path: Path) -> None:
    run(tmp_path, range(1, 8))
    run(tmp_path, range(1, 3))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


@given(st.integers(0, 12), st.binary(max_size=30), st.integers(-1, 15))
@settings(max_examples=50, deadline=None)
def test_truncation_keeps_what_is_due_and_whole(
    tmp_path_factory: pytest.TempPathFactory, count: int, torn: bytes, step: int
) -> None:
    path = tmp_path_factory.mktemp("t") / FILE
    due = [json.dumps({"step": i}).encode() + b"\n" for i in range(1, count + 1)]
    path.write_bytes(b"".join(due) + torn.replace(b"\n", b""))
    truncate_after(path, step)
    assert path.read_bytes() == b"".join(due[: max(step, 0)])
    assert [entry["step"] for entry in read_metrics(path)] == list(range(1, min(step, count) + 1))


def test_ranks_that_write_nothing_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Metrics(None) as metrics:
        metrics.begin_run(5, 1, "on cpu in fp32")
        metrics.begin_stage("a", 5)
        metrics.step(1, loss(2), tokens=1, seconds=1)
        metrics.evaluation(1, "a", {"x": 1.0}, [("a", "b")])
        metrics.flush()
        metrics.say("words")
        metrics.summary()
    assert os.listdir(tmp_path) == []
    assert capsys.readouterr() == ("", "")


def test_the_summary_has_a_row_a_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Metrics(tmp_path) as metrics:
        for stage, steps in (("pretrain", range(1, 21)), ("sft", range(21, 31))):
            metrics.begin_stage(stage, len(steps))
            for step in steps:
                metrics.step(step, loss(2 * step), tokens=1000, seconds=0.5)
            metrics.evaluation(steps.stop - 1, stage, {"bits_per_byte": 1.25})
        metrics.summary()
    head, _, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["stage", "steps", "tokens", "time", "tokens/s"]
    assert first.split()[:6] == ["pretrain", "20", "20k", "10s", "2k", "15.5000"]
    assert second.split()[0] == "sft"
    assert first.split()[-1] == second.split()[-1] == "1.2500"


def test_a_full_disk_is_a_storage_error_and_closing_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    with Metrics(tmp_path) as metrics:
        metrics._file.close()
        monkeypatch.setattr(metrics, "_file", Full())
        metrics.step(1, loss(2), tokens=1, seconds=1)
        with pytest.raises(StorageError, match=FILE):
            metrics.flush()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_is_not_waited_for(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        work = torch.ones(4096, 4096, device="cuda")
        for step in range(1, 4):
            for _ in range(20):
                work = work @ work * 1e-4
            done = torch.cuda.Event()
            done.record()
            total = work.mean() * 0 + step
            metrics.step(step, Loss(total, 1, 1), tokens=1, seconds=1)
            assert not done.query()
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, 2.0, 3.0]


def test_the_last_step_is_read_off_the_end(tmp_path: Path) -> None:
    path = tmp_path / FILE
    assert last_step(path) == 0
    whole = "".join(json.dumps({"step": n, "text": "x" * n**2}) + "\n" for n in range(1, 100))
    for length in (0, 3, 20, 5000, 100_000, len(whole) - 1, len(whole)):
        path.write_text(whole[:length])
        assert last_step(path) == max((line["step"] for line in read_metrics(path)), default=0)
