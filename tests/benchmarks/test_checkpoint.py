"""The benchmark of checkpoints, tiny, and what its contestants leave on the disk."""

from __future__ import annotations

import json
import math
import mmap
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.memory import reset_peak, resident
from benchmarks.shapes import SHAPES
from benchmarks.states import (
    DurableTorchSaving,
    LmkitLoading,
    LmkitSaving,
    TorchLoading,
    make_model,
    make_optimizers,
    state_bytes,
    write_files,
)
from lmkit.checkpoints.directory import CheckpointDir

TINY = SHAPES["tiny"]


@pytest.mark.usefixtures("in_turn")
def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "checkpoint.json"
    words = ["--folder", str(tmp_path), "--json", str(file)]
    assert main(["checkpoint", "--smoke", *words]) == 0
    assert "lmkit load_model" in capsys.readouterr().out
    rows = json.loads(file.read_text())["rows"]
    saves = {row["save"]: row for row in rows if "save" in row}
    assert list(saves) == ["lmkit", "torch.save", "torch.save, fsync, rename"]
    assert all(0 < row["stall s"] <= row["lost s"] <= row["total s"] for row in saves.values())
    loads = {row["load"]: row for row in rows if "load" in row}
    assert len(loads) == 5
    assert loads["torch.load"]["of torch.load"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.json"]


def test_saves_are_whole(tmp_path: Path) -> None:
    ours, theirs = LmkitSaving(TINY, str(tmp_path)), DurableTorchSaving(TINY, str(tmp_path))
    for each in (ours, theirs):
        assert each.round(0).amount == state_bytes(each.model, each.optimizers)
    newest = CheckpointDir(ours.folder).latest()
    assert newest is not None
    assert (newest.step, newest.has_optimizers) == (2, True)
    assert [path.name for path in theirs.folder.iterdir()] == ["checkpoint.pt"]


def test_the_state_is_weights_and_two_moments() -> None:
    model = make_model(TINY)
    found = state_bytes(model, make_optimizers(model))
    tensors = len(list(model.parameters()))
    assert found == 3 * 4 * model.parameter_count() + 4 * tensors  # and a step count each


def test_all_load_the_same(tmp_path: Path) -> None:
    write_files(TINY, tmp_path)
    folder = str(tmp_path)
    wanted = LmkitLoading(folder).load()
    into_model = TorchLoading(folder, "whole", False, TINY).load()
    alone = TorchLoading(folder, "weights", True).load()
    whole = TorchLoading(folder, "whole", False).load()
    for name, tensor in wanted.items():
        assert torch.equal(into_model[name], tensor)
        assert torch.equal(alone[f"model.{name}"], tensor)
        assert torch.equal(whole[f"model.{name}"], tensor)
    assert len(whole) > 3 * len(list(make_model(TINY).parameters()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_mapped_load_is_seen_in_memory(tmp_path: Path) -> None:
    shape = replace(TINY, vocabulary=100_000)  # 26 MB
    write_files(shape, tmp_path)
    more = TorchLoading(str(tmp_path), "weights", True).round(0).more
    assert more["mapped"] > 20e6
    assert more["own"] < 10e6


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_is_seen_to_grow() -> None:
    reset_peak()
    before, own = resident("VmRSS"), resident("RssAnon")
    with mmap.mmap(-1, 16_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.write(b"x" * 16_000_000)
        assert resident("VmHWM") - before > 12_000_000
        assert resident("RssAnon") - own > 12_000_000
    assert math.isnan(resident("VmNothing"))
