"""Checkpoints that were damaged or tampered with are noticed: passed over, or refused (R1-R8)."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lmkit.checkpoints.directory import CheckpointDir
from lmkit.cli import main
from tests.faults.conftest import count

Ask = Callable[[str, int], dict[str, Any]]
pytestmark = pytest.mark.timeout(count(300, 7200))
SHORT = [
    "stages.pretrain.steps=4", "stages.pretrain.evaluate.samples=[]", "stages.sft.steps=1",
    "stages.sft.epochs=",
]  # fmt: skip


def test_a_damaged_newest_one_is_passed_over_and_the_run_ends_bit_equal(ask: Ask) -> None:
    result = ask("damage", count(40, 1000))
    print(f"damaged newest checkpoints: {result['tried']}")
    assert result["wrong"] == []


def test_every_flipped_bit_is_noticed(ask: Ask) -> None:
    result = ask("flips", count(150, 1500))
    print(
        f"flipped bits noticed: {result['flips'] - len(result['unnoticed'])} of {result['flips']}"
    )
    assert result["unnoticed"] == []


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, make_experiment: Callable[[Path], Path]
) -> Path:
    """The folder of an experiment whose run is over; its YAML is `tiny.yaml`, its run `run`."""
    folder = tmp_path_factory.mktemp("finished")
    assert main(["train", str(make_experiment(folder)), *SHORT]) == 0
    return folder


@pytest.fixture
def experiment(finished: Path, tmp_path: Path) -> Path:
    """The YAML, and a copy of the run in `tmp_path/run`."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return finished / "tiny.yaml"


@pytest.fixture
def entries(experiment: Path, tmp_path: Path) -> list[Path]:
    """The folders of the copy's checkpoints, oldest first."""
    found = [entry.folder for entry in CheckpointDir(tmp_path / "run" / "checkpoints").entries()]
    assert len(found) >= 2
    return found


def train(experiment: Path, run: Path, *words: str) -> int:
    return main(["train", str(experiment), f"out={run}", *SHORT, *words])


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of error."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    return lines[0]


def test_when_all_are_bad_each_reason_is_told_and_nothing_deleted(
    experiment: Path, entries: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    for entry in entries:
        os.truncate(entry / "model.safetensors", 100)
    assert train(experiment, tmp_path / "run") == 3
    error = refused(capsys)
    assert all(entry.name in error for entry in entries)
    assert error.count("model.safetensors has 100 bytes") == len(entries)
    assert all(entry.is_dir() for entry in entries)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def rewrite(entry: Path, alter: Callable[[dict[str, Any]], None]) -> None:
    """Alter a manifest."""
    path = entry / "manifest.json"
    content = json.loads(path.read_text())
    alter(content)
    path.write_text(json.dumps(content))


def name_outside(name: str) -> Callable[[dict[str, Any]], None]:
    def alter(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"].pop("state.json")

    return alter


def huge(manifest: dict[str, Any]) -> None:
    manifest["files"]["model.safetensors"]["size"] = 1 << 62


def of_the_future(manifest: dict[str, Any]) -> None:
    manifest["format"] = 99


@pytest.mark.parametrize(
    ("alter", "complaint"),
    [
        (name_outside("../../secret"), "names a file outside the folder"),
        (name_outside("/etc/passwd"), "names a file outside the folder"),
        (name_outside("a\\..\\b"), "names a file outside the folder"),
        (huge, "bytes, not 4,611,686,018,427,387,904"),
        (of_the_future, "format 99 is not 2"),
    ],
    ids=["up", "absolute", "backslash", "huge", "future"],
)
def test_a_manifest_that_was_tampered_with_is_refused(
    alter: Callable[[dict[str, Any]], None],
    complaint: str,
    experiment: Path,
    entries: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for entry in entries:
        rewrite(entry, alter)
    assert train(experiment, tmp_path / "run") == 3
    assert complaint in refused(capsys)


def test_a_link_is_refused(
    experiment: Path, entries: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for entry in entries:
        (entry / "state.json").rename(tmp_path / f"{entry.name}.json")
        (entry / "state.json").symlink_to(tmp_path / f"{entry.name}.json")
    assert train(experiment, tmp_path / "run") == 3
    assert "state.json is a link" in refused(capsys)


class Canary:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, nest: Path) -> None:
        self.nest = nest

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.nest}",)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_pickle_in_its_place_is_never_opened(
    file: str,
    experiment: Path,
    entries: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = pickle.dumps(Canary(tmp_path / "nest"))
    for entry in entries:
        (entry / file).write_bytes(content)
        record = {"size": len(content), "sha256": sha256(content).hexdigest()}
        rewrite(entry, lambda manifest: manifest["files"].update({file: record}))  # noqa: B023
    # a longer horizon, so that the optimizers' state is wanted as well
    assert train(experiment, tmp_path / "run", "stages.sft.steps=2") == 3
    refused(capsys)
    assert not (tmp_path / "nest").exists()


@pytest.mark.parametrize(
    "change",
    [
        "model.embedding_dim=32",
        "stages.sft.optimizers=auto",
        "stages.pretrain.data.holdout=0.5",
        "stages.pretrain.steps=2",
        "seed=8",
    ],
)
def test_what_changed_in_the_experiment_is_named(
    change: str,
    experiment: Path,
    tmp_path: Path,
    entries: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(experiment, tmp_path / "run", change) == 3
    assert change.partition("=")[0] in refused(capsys)


@pytest.mark.parametrize(
    "change", ["stages.sft.checkpoint.every=7", "stages.sft.checkpoint.keep=4"]
)
def test_what_harms_nothing_may_change_and_is_told(
    change: str,
    experiment: Path,
    tmp_path: Path,
    entries: list[Path],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(experiment, tmp_path / "run", change) == 0
    assert f"goes on although out, {change.partition('=')[0]} changed" in caplog.text
    assert "is finished" in capsys.readouterr().out
