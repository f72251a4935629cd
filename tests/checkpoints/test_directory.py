"""Of a run's checkpoints the last good one is found, old ones go, and a full disk harms none."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmkit.checkpoints import contents as contents_module
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.errors import CheckpointError, ConfigError, StorageError
from tests.checkpoints.small import contents

FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "experiment.json"]


def names(directory: CheckpointDir) -> list[str]:
    return [entry.folder.name for entry in directory.entries()]


# --- one checkpoint ---------------------------------------------------------------------------


def test_order_is_that_of_numbers_and_of_saving(tmp_path: Path) -> None:
    directory = CheckpointDir(tmp_path, keep=9)
    for step, stage in ((9, "z"), (100_000_000, "a"), (10, "z"), (10, "b"), (10, "a")):
        directory.save(contents(step, stage))
    assert names(directory) == [
        "00000009-z", "00000010-z", "00000010-b", "00000010-a", "100000000-a",
    ]  # fmt: skip
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))  # whatever clocks say
    assert names(directory)[-1] == "100000000-a"


def test_the_last_ones_are_kept_and_the_last_of_every_stage(tmp_path: Path) -> None:
    directory = CheckpointDir(tmp_path, keep=2)
    for step, stage in ((1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c"), (7, "c")):
        directory.save(contents(step, stage))
    assert names(directory) == ["00000002-a", "00000004-b", "00000006-c", "00000007-c"]


def test_the_best_is_kept_and_nan_is_never_best(tmp_path: Path) -> None:
    directory = CheckpointDir(tmp_path, keep=2, best={"a": "loss"})
    assert directory.best_entry("a") is None
    for step, loss in enumerate([3.0, math.nan, 1.0, 2.0, 4.0, 5.0]):
        directory.save(contents(step, metrics={"loss": loss}))
    directory.save(contents(6))  # saved without an evaluation
    best = directory.best_entry("a")
    assert best is not None
    assert best.step == 2
    assert names(directory) == ["00000002-a", "00000005-a", "00000006-a"]


def test_every_stage_has_its_own_best_and_keeps_it(tmp_path: Path) -> None:
    """A stage without `best` deletes nobody's, nor does one that measures something else."""
    wishes = {"a": "loss", "b": None, "c": "sums"}
    measured = {"a": ("loss", (1.0, 2.0, 3.0)), "b": ("loss", (0.1, 0.2, 0.3))}
    measured["c"] = ("sums", (0.5, 0.9, 0.7))
    directory = CheckpointDir(tmp_path, keep=2, best=wishes)
    step = 0
    for stage, (metric, values) in measured.items():
        for value in values:
            assert directory.is_best(stage, {metric: value}) == (
                stage != "b" and value in (1.0, 0.5, 0.9)
            )
            directory.save(contents(step := step + 1, stage, metrics={metric: value}))
    assert names(directory) == [
        "00000001-a", "00000003-a", "00000006-b", "00000008-c", "00000009-c",
    ]  # fmt: skip
    for stage, step in (("a", 1), ("c", 8)):
        found = directory.best_entry(stage)
        assert found is not None
        assert found.step == step
    assert directory.best_entry("b") is None
    with pytest.raises(ConfigError, match="'loss' was not measured"):
        directory.is_best("a", {"sums": 1.0})


@pytest.mark.parametrize("damage", ["flip", "unlink"])
def test_damaged_ones_do_not_count_as_kept(tmp_path: Path, damage: str) -> None:
    directory = CheckpointDir(tmp_path, keep=2)
    for step in (1, 2):
        directory.save(contents(step))
    weights = tmp_path / "00000002-a" / "model.safetensors"
    flip(weights) if damage == "flip" else weights.unlink()
    directory = CheckpointDir(tmp_path, keep=2)  # a process of its own, as after a crash
    directory.save(contents(3))
    assert names(directory) == ["00000001-a", "00000002-a", "00000003-a"]
    directory.save(contents(4))
    assert names(directory) == ["00000002-a", "00000003-a", "00000004-a"], "what is bad is left"


def test_a_damaged_best_gives_way_to_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = CheckpointDir(tmp_path, keep=3, best={"a": "loss"})
    for step, loss in ((1, 0.5), (2, 0.7)):
        directory.save(contents(step, metrics={"loss": loss}))
    flip(tmp_path / "00000001-a" / "model.safetensors")
    directory = CheckpointDir(tmp_path, keep=2, best={"a": "loss"})
    best = directory.best_entry("a")
    assert best is not None
    assert best.step == 2
    assert directory.is_best("a", {"loss": 0.6})
    for step in (3, 4, 5):
        directory.save(contents(step, metrics={"loss": 0.9}))
    assert names(directory) == ["00000001-a", "00000002-a", "00000004-a", "00000005-a"]
    assert caplog.text.count("is altered") == 1, "told once"


def test_one_that_replaces_a_damaged_one_counts(tmp_path: Path) -> None:
    CheckpointDir(tmp_path).save(contents(1))
    flip(tmp_path / "00000001-a" / "model.safetensors")
    directory = CheckpointDir(tmp_path, best={"a": "loss"})
    assert directory.best_entry("a") is None
    for step in (1, 2, 3):
        directory.save(contents(step, metrics={"loss": float(step)}))
    assert names(directory) == ["00000001-a", "00000002-a", "00000003-a"]


def test_keeping_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep: 1 is too few"):
        CheckpointDir(tmp_path, keep=1)


def test_a_stage_may_be_called_anything(tmp_path: Path) -> None:
    directory = CheckpointDir(tmp_path)
    directory.save(contents(1, "../pre train/ü"))
    assert names(directory) == ["00000001-.._pre_train_ü"]
    assert directory.entries()[0].stage == "../pre train/ü"


def test_a_damaged_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    directory = CheckpointDir(tmp_path)
    for step in (1, 2):
        directory.save(contents(step))
    (tmp_path / "00000002-a" / "manifest.json").unlink()
    directory.save(contents(2))
    newest = directory.latest()
    assert newest is not None
    assert newest.step == 2


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "flipped": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
    "linked": lambda path: (path.rename(path.with_suffix(".x")), path.symlink_to(path.name)),
}


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for step in (1, 2):
        CheckpointDir(folder).save(contents(step))
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", [*FILES, "environment.json", "tokenizer/tokenizer.json"])
def test_a_damaged_newest_one_is_passed_over_and_said(
    two_saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](tmp_path / "00000002-a" / file)
    with caplog.at_level(logging.WARNING):
        found = CheckpointDir(tmp_path).latest()
    assert found is not None
    assert found.state == {"step": 1}
    assert file in caplog.text
    assert "00000002-a" in caplog.text
    assert "going back to 00000001-a" in caplog.text
    assert len(names(CheckpointDir(tmp_path))) == 2  # nothing is deleted


@pytest.mark.parametrize("damage", ["empty", "gone", "linked"])
def test_a_damaged_manifest_is_passed_over(two_saved: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](tmp_path / "00000002-a" / "manifest.json")
    found = CheckpointDir(tmp_path).latest()
    assert found is not None
    assert found.step == 1


def test_for_inference_the_optimizers_state_is_not_read(two_saved: Path, tmp_path: Path) -> None:
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    flip(tmp_path / "00000002-a" / "optimizer.safetensors")
    found = CheckpointDir(tmp_path).latest(for_inference=True)
    assert found is not None
    assert found.step == 2


def test_when_all_are_bad_each_reason_is_told(two_saved: Path, tmp_path: Path) -> None:
    shutil.copytree(two_saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / "00000001-a" / "state.json").unlink()
    flip(tmp_path / "00000002-a" / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        CheckpointDir(tmp_path).latest()
    assert re.search(r"model\.safetensors is altered.*state\.json is missing", str(caught.value))
    assert caught.value.exit_code == 3
    assert len(names(CheckpointDir(tmp_path))) == 2


def test_where_there_never_was_one_there_is_none(tmp_path: Path) -> None:
    assert CheckpointDir(tmp_path / "nowhere").latest() is None
    (tmp_path / "not-a-checkpoint").mkdir()
    (tmp_path / "00000001-a").write_text("a file")
    (tmp_path / "00000002-a").symlink_to(tmp_path)
    assert CheckpointDir(tmp_path).latest() is None


def test_prepare_cleans_and_looks_for_room(tmp_path: Path) -> None:
    directory = CheckpointDir(tmp_path / "run" / "checkpoints")
    directory.prepare(1)
    (directory.folder / ".tmp-00000001-a").mkdir()
    directory.prepare()
    assert os.listdir(directory.folder) == []
    with pytest.raises(StorageError, match="a checkpoint needs"):
        directory.prepare(1 << 60)


def test_a_full_disk_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = CheckpointDir(tmp_path)
    for step in (1, 2):
        directory.save(contents(step))

    def full(path: Path, tensors: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(contents_module, "write_tensors", full)
    with pytest.raises(StorageError, match="00000003-a: cannot be written: No space left"):
        directory.save(contents(3))
    assert sorted(os.listdir(tmp_path)) == ["00000001-a", "00000002-a"]


def test_a_run_that_was_deleted_is_not_made_anew(tmp_path: Path) -> None:
    directory = CheckpointDir(tmp_path / "checkpoints")
    directory.prepare()
    shutil.rmtree(directory.folder)
    with pytest.raises(StorageError, match="was it deleted while this ran"):
        directory.save(contents(1))
    assert not directory.folder.exists()
