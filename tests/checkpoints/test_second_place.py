"""Checkpoints come to a second place whole or not at all, and back from there; no failure of it
stops a run or is silent.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from lmkit.checkpoints import disk
from lmkit.checkpoints.contents import CheckpointContents
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.place import Place
from lmkit.checkpoints.second_place import SecondPlace
from lmkit.cli import main
from lmkit.errors import CheckpointError, ConfigError, StorageError
from lmkit.text import Byte
from lmkit_models.mlp import MLP

MODEL = MLP(tokenizer=Byte(), embedding_dim=2, window=1, nodes=2, layers=1, max_len=8)
METRICS = "metrics.jsonl"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, with metrics."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / METRICS).write_text('{"step": 1}\n')
    return tmp_path / "run"


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder, and a store that is no file system."""
    if request.param == "folder":
        yield str(tmp_path / "second" / "run")
    else:
        yield "memory://bucket/run"
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "second" / "run")


def open_directory(run: Path, url: str, keep: int = 2, **more: Any) -> CheckpointDir:
    directory = CheckpointDir(
        run / "checkpoints", keep, copies=SecondPlace(url, [run / METRICS]), **more
    )
    directory.prepare()
    return directory


def save(directory: CheckpointDir, step: int, stage: str = "a", **more: Any) -> None:
    """Save and wait for the copy."""
    contents = CheckpointContents(MODEL, state={"step": step}, stage=stage, step=step, **more)
    directory.save(contents)
    directory.copies.wait()  # type: ignore[union-attr]


def names(url: str) -> list[str]:
    """The whole ones there."""
    return [entry.name for entry in Place(url).entries()]


# --- there ------------------------------------------------------------------------------------


def test_what_is_kept_here_is_kept_there(run: Path, url: str) -> None:
    directory = open_directory(run, url, best={"a": "loss"})
    steps = [(1, "a", 3.0, False), (2, "a", 1.0, False), (3, "a", 2.0, True), (4, "a", 4.0, False)]
    steps += [(5, "b", 0.0, False), (6, "b", 0.0, False), (7, "b", 0.0, False)]
    for step, stage, loss, stays in steps:
        save(directory, step, stage, metrics={"loss": loss}, stays=stays)
    kept = ["00000002-a", "00000003-a", "00000004-a", "00000006-b", "00000007-b"]
    assert [entry.name for entry in directory.entries()] == kept
    assert names(url) == kept


def test_a_copy_is_a_run_of_its_own(run: Path, folder: str) -> None:
    directory = open_directory(run, folder)
    save(directory, 1)
    copies = CheckpointDir(Path(folder) / "checkpoints").entries()
    assert [entry.name for entry in copies] == ["00000001-a"]
    copies[0].check()
    assert Path(folder, METRICS).read_text() == '{"step": 1}\n'
    assert sorted(os.listdir(folder)) == ["checkpoints", METRICS]


def test_what_came_there_before_the_run_was_moved_stays_by_the_same_rules(
    run: Path, url: str, tmp_path: Path
) -> None:
    save(open_directory(run, url), 1, "a")
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    directory = open_directory(elsewhere, url)
    for step in (2, 3, 4):
        save(directory, step, "b")
    assert names(url) == ["00000001-a", "00000003-b", "00000004-b"]


def test_one_that_was_written_anew_is_copied_anew(run: Path, url: str) -> None:
    directory = open_directory(run, url)
    save(directory, 1)
    save(directory, 1, metrics={"loss": 2.0})
    assert [entry.metrics for entry in Place(url).entries()] == [{"loss": 2.0}]


def test_half_a_copy_is_none_and_is_cleared(run: Path, folder: str) -> None:
    directory = open_directory(run, folder)
    half = Path(folder, "checkpoints", "00000009-a")
    half.mkdir()
    (half / "state.json").write_text("{}")
    (half.parent / "letters").mkdir()
    assert names(folder) == []
    save(directory, 1)
    assert sorted(os.listdir(half.parent)) == ["00000001-a", "letters"]


@pytest.mark.parametrize("call", disk.COPY)
def test_a_copy_that_fails_is_told_and_made_with_the_next(
    run: Path,
    folder: str,
    call: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = open_directory(run, folder)
    for step in (1, 2):
        save(directory, step)
    fault = f"{call}:{4 if call == 'copy.write' else 1}:eio"
    monkeypatch.setenv(disk.VARIABLE, fault)
    disk._fault.cache_clear()
    save(directory, 3)  # raises nothing
    monkeypatch.delenv(disk.VARIABLE)
    assert caplog.text.count("not copied to") == 1
    assert "Input/output error; tried again with the next checkpoint" in caplog.text
    for entry in CheckpointDir(Path(folder) / "checkpoints").entries():
        if (entry.folder / "manifest.json").exists():
            entry.check()
    save(directory, 4)
    assert names(folder) == ["00000003-a", "00000004-a"]
    assert len(os.listdir(Path(folder) / "checkpoints")) == 2


def test_the_runs_end_tries_once_more(
    run: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = open_directory(run, folder)
    monkeypatch.setenv(disk.VARIABLE, "copy.write:2:enospc")
    disk._fault.cache_clear()
    save(directory, 1)
    assert names(folder) == []
    directory.close()
    assert names(folder) == ["00000001-a"]


def test_what_is_not_there_at_the_runs_end_is_its_last_line(
    run: Path, folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = open_directory(run, folder)
    for step in (1, 2):
        save(directory, step)
    directory.close()
    assert caplog.text == ""
    with monkeypatch.context() as broken:
        broken.setattr(Place, "put", lambda *_: (_ for _ in ()).throw(OSError("it is gone")))
        save(directory, 3)
        directory.close()
    last = caplog.records[-1]
    assert last.levelname == "ERROR"
    assert last.getMessage().startswith(f"{folder} lacks checkpoints of this run")
    assert directory.copies is not None
    kept = [entry.folder for entry in directory.entries()]
    assert directory.copies.missing(kept) == ["00000003-a"]
    caplog.clear()
    directory.close()
    assert directory.copies.missing(kept) == []
    assert caplog.text == ""


def test_nothing_is_deleted_here_while_it_is_copied(
    run: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = open_directory(run, folder)
    begun, go_on = threading.Event(), threading.Event()
    put = Place.put

    def put_late(place: Place, path: Path) -> None:
        begun.set()
        assert go_on.wait(60)
        put(place, path)

    monkeypatch.setattr(Place, "put", put_late)
    directory.save(CheckpointContents(MODEL, stage="a", step=1))
    assert begun.wait(60)
    for step in (2, 3, 4):
        directory.save(CheckpointContents(MODEL, stage="a", step=step))
    assert [entry.step for entry in directory.entries()] == [1, 3, 4]
    go_on.set()
    directory.close()
    assert names(folder) == ["00000003-a", "00000004-a"]
    directory.save(CheckpointContents(MODEL, stage="a", step=5))
    assert [entry.step for entry in directory.entries()] == [4, 5]
    directory.close()


# --- and back ---------------------------------------------------------------------------------


def two_stages(run: Path, url: str) -> None:
    directory = open_directory(run, url)
    for step, stage in ((1, "a"), (2, "a"), (3, "b"), (4, "b")):
        save(directory, step, stage)


def test_a_new_machine_gets_the_newest_of_every_stage(run: Path, url: str, tmp_path: Path) -> None:
    two_stages(run, url)
    shutil.rmtree(run)
    run.mkdir()
    directory = open_directory(run, url)
    assert [entry.name for entry in directory.entries()] == ["00000002-a", "00000004-b"]
    newest = directory.latest()
    assert newest is not None
    assert newest.state == {"step": 4}
    assert (run / METRICS).read_text() == '{"step": 1}\n'


def test_a_good_one_here_is_enough(run: Path, folder: str) -> None:
    two_stages(run, folder)
    for entry in CheckpointDir(run / "checkpoints").entries()[1:]:
        shutil.rmtree(entry.folder)
    (run / METRICS).write_text("")
    assert [entry.step for entry in open_directory(run, folder).entries()] == [2]
    assert (run / METRICS).read_text() == ""


def test_where_all_are_damaged_here_those_from_there_replace_them(run: Path, url: str) -> None:
    two_stages(run, url)
    for entry in CheckpointDir(run / "checkpoints").entries():
        os.truncate(entry.folder / "model.safetensors", 10)
    (run / METRICS).write_text('{"step": 1}\n{"step": 2}\n')
    newest = open_directory(run, url).latest()
    assert newest is not None
    assert newest.step == 4
    assert (run / METRICS).read_text() == '{"step": 1}\n{"step": 2}\n', "the longer one"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def outside(path: Path) -> None:
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["files"]["../../../../caught"] = manifest["files"].pop("model.safetensors")
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (flip, "model.safetensors is altered"),
        (lambda path: os.truncate(path, 10), "model.safetensors has 10 bytes, not"),
        (Path.unlink, "model.safetensors has None bytes, not"),
        (outside, "names a file outside the folder"),
    ],
    ids=["flipped", "cut", "gone", "outside"],
)
def test_a_damaged_copy_is_passed_over(
    damage: Callable[[Path], Any],
    complaint: str,
    run: Path,
    folder: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    two_stages(run, folder)
    shutil.rmtree(run / "checkpoints")
    damage(Path(folder, "checkpoints", "00000004-b", "model.safetensors"))
    with caplog.at_level(logging.WARNING):
        directory = open_directory(run, folder)
    assert [entry.name for entry in directory.entries()] == ["00000002-a", "00000003-b"]
    assert complaint in caplog.text
    assert not (tmp_path / "caught").exists()


def test_when_all_copies_are_bad_a_run_does_not_begin_anew(run: Path, folder: str) -> None:
    two_stages(run, folder)
    shutil.rmtree(run / "checkpoints")
    for path in Path(folder).rglob("model.safetensors"):
        flip(path)
    with pytest.raises(CheckpointError, match="no checkpoint is good"):
        open_directory(run, folder)


def test_a_place_that_does_not_answer_is_told_before_the_first_step(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="does not answer"):
        open_directory(run, str(tmp_path / "file" / "run"))
    with pytest.raises(ConfigError, match="copy_to: nonsense://x cannot be opened"):
        open_directory(run, "nonsense://x")


def test_through_the_command_line(
    experiment_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    small = ["stages.pretrain.steps=3", "stages.pretrain.checkpoint.keep_every=1"]
    small += ["stages.pretrain.evaluate.samples=[]", "stages.sft.steps=1", "stages.sft.epochs="]
    words = ["train", str(experiment_file), f"copy_to={tmp_path / 'safe'}", *small]
    assert main(words) == 0
    copy = tmp_path / "safe" / "run"
    kept = [entry.name for entry in CheckpointDir(copy / "checkpoints").entries()]
    assert kept == ["00000001-pretrain", "00000002-pretrain", "00000003-pretrain", "00000004-sft"]
    before = (tmp_path / "run" / METRICS).read_text()
    shutil.rmtree(tmp_path / "run")
    capsys.readouterr()
    assert main(words) == 0
    assert "is finished: 4 steps" in capsys.readouterr().out
    assert "brought here from" in caplog.text
    assert (tmp_path / "run" / METRICS).read_text() == before
    assert main(["checkpoint", "verify", str(copy)]) == 0
