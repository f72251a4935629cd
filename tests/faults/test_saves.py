"""Every call by which a save touches the disk fails once, in every way: nothing is lost (K1-K9)."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmkit.checkpoints import disk, durable
from lmkit.checkpoints.contents import CheckpointContents
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.cli import main
from lmkit.errors import ConfigError, StorageError
from lmkit.text import Byte
from lmkit.train.lock import run_lock
from lmkit_models.mlp import MLP
from tests.faults.conftest import count

Ask = Callable[[str, int], dict[str, Any]]
MODEL = MLP(tokenizer=Byte(), embedding_dim=32, window=2, nodes=64, layers=1, max_len=8)
# of the tiny experiment, its first stage in four steps
pytestmark = pytest.mark.timeout(count(300, 7200))
SHORT = [
    "stages.pretrain.steps=4", "stages.pretrain.evaluate.samples=[]", "stages.sft.steps=1",
    "stages.sft.epochs=",
]  # fmt: skip


def test_a_process_killed_while_saving_loses_nothing(ask: Ask) -> None:
    n_kills = count(12, 1000)
    result = ask("saves_killed", n_kills)
    print(f"saves killed at random: {n_kills}, {result['leftovers']} left a half one")
    assert result["lost"] == 0
    assert result["latest"] > 3  # it did get on
    assert result["leftovers"] > 0  # some kills fell into a save


def test_every_touch_of_the_disk_may_fail(ask: Ask) -> None:
    result = ask("saves_refused", count(0, 1))
    print(f"faults of a save: {sum(result['tried'].values())}, {result['tried']}")
    assert result["wrong"] == []
    # a save opens, writes and syncs 8 files at least, and each call fails in three ways
    least = {"mkdir": 3, "open": 24, "write": 24, "fsync": 27, "rename": 6, "unlink": 24}
    for call, number in least.items():
        assert result["tried"][f"save.{call}"] >= number, call
    assert all(result["tried"].values())


def test_a_copy_is_whole_or_not_there(ask: Ask) -> None:
    result = ask("copies_killed", count(0, 1))
    print(f"copies killed: {result['tried']}")
    assert result["wrong"] == []
    assert result["tried"] >= count(7, 60)  # a file at a time, and what deletes the oldest


@pytest.fixture
def strace() -> str:
    """Where it is, if this process may look into another one."""
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed")
    trial = subprocess.run([found, "-e", "trace=none", "true"], capture_output=True, check=False)
    if trial.returncode:
        pytest.skip("this process may trace no other")
    return found


def test_files_are_synced_before_the_rename_and_the_folder_after_it(
    memory: Path, strace: str, environment: dict[str, str]
) -> None:
    log, place = memory / "log", memory / "checkpoints"
    place.mkdir()
    trace = [strace, "-f", "-y", "--seccomp-bpf", "-o", log, "-e", "trace=fsync,/rename"]
    program = [sys.executable, Path(__file__).with_name("saver.py"), place]
    subprocess.run([*trace, *program], env=environment, check=True, capture_output=True)
    calls = log.read_text().splitlines()

    def found(call: str, text: str) -> list[int]:
        return [i for i, line in enumerate(calls) if call in line and text in line]

    for name in ("00000001-a", "00000002-a", "00000003-a"):
        synced = found("fsync", f"/.tmp-{name}")
        files = {re.findall(rf"/.tmp-{name}([\w./-]*)", calls[i])[0] for i in synced}
        assert files >= {"", "/model.safetensors", "/tokenizer/tokenizer.json", "/manifest.json"}
        assert len(files) == 1 + len(list((place / "00000003-a").rglob("*")))  # it, and all in it
        renamed = found("rename", f'"{place}/{name}"')[0]
        assert max(synced) < renamed < max(found("fsync", f"<{place}>"))
    gone = found("rename", ".del-00000001-a")[0]
    in_place = found("rename", f'"{place}/00000003-a"')[0]
    assert any(in_place < i < gone for i in found("fsync", f"<{place}>"))


# --- through the command line -----------------------------------------------------------------


def train(experiment: Path, *words: str) -> int:
    return main(["train", str(experiment), *SHORT, *words])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of error."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    return lines[0]


def test_a_failing_thread_ends_the_run_and_the_same_command_goes_on(
    experiment_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(disk.VARIABLE, "save.mkdir:2:enospc")  # of the second save
    assert train(experiment_file) == 74
    error = error_of(capsys)
    assert "00000004-pretrain: cannot be written: No space left on device" in error
    assert "free)" in error
    left = CheckpointDir(experiment_file.parent / "run" / "checkpoints")
    assert [entry.name for entry in left.entries()] == ["00000002-pretrain"]
    assert os.listdir(left.folder) == ["00000002-pretrain"]
    monkeypatch.delenv(disk.VARIABLE)
    assert train(experiment_file) == 0


@pytest.mark.parametrize(
    ("kind", "hint"),
    [("erofs", "mounted read-only"), ("eacces", "make the folder writable"), ("edquot", "quota")],
)
def test_whatever_the_disk_says_there_is_a_hint(
    kind: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(disk.VARIABLE, f"save.mkdir:1:{kind}")
    with pytest.raises(StorageError, match=hint) as caught:
        CheckpointDir(tmp_path).save(CheckpointContents(MODEL, step=1, stage="a"))
    assert caught.value.exit_code == 74
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("save.wrote:1:kill", "did you mean 'save.write'"),
        ("save.write:x:kill", "is no fault"),
        ("save.write:1:enonsense", "write CALL:NUMBER:KIND"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(
    fault: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(disk.VARIABLE, fault)
    with pytest.raises(ConfigError, match=complaint):
        CheckpointDir(tmp_path).save(CheckpointContents(MODEL, step=1, stage="a"))


def test_a_second_process_is_refused_and_told_of_the_first(
    experiment_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_lock(experiment_file.parent / "run"):
        assert train(experiment_file) == 3
    assert f"process {os.getpid()} on" in error_of(capsys)


def test_leftovers_are_cleared_and_told_of(
    experiment_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = experiment_file.parent / "run" / "checkpoints"
    for name in (".tmp-00000002-pretrain", ".del-00000001-pretrain"):
        (place / name / "code").mkdir(parents=True)
        (place / name / "code" / "half.py").write_text("")
    assert train(experiment_file) == 0
    assert not list(place.glob(".*"))
    assert caplog.text.count("left over from a process that was killed") == 2


# --- disks that are really full ---------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where this process may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this process may mount nothing")
    yield place
    subprocess.run(["umount", place], check=True)


def test_too_small_a_disk_is_found_before_the_first_step(
    experiment_file: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_disk / "run"
    assert train(experiment_file, f"out={run}") == 74
    assert re.search(r"a checkpoint needs 1\.\d MiB and .* are free; make room", error_of(capsys))
    assert not (run / "metrics.jsonl").exists()


@pytest.mark.parametrize("free", [1, 4, 8, 16, 24, 32, 48])
def test_a_disk_that_fills_up_in_the_midst_of_a_save(
    small_disk: Path, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KiB that are left; a checkpoint is of some 60."""
    directory = CheckpointDir(small_disk)
    for step in (1, 2):
        directory.save(CheckpointContents(MODEL, step=step, stage="a"))
    with (small_disk / "filler").open("wb") as filler:
        filler.write(bytes(shutil.disk_usage(small_disk).free - free * 1024))
    with pytest.raises(StorageError, match="a checkpoint needs"):
        directory.save(CheckpointContents(MODEL, step=3, stage="a"))
    monkeypatch.setattr(durable, "free_bytes", lambda path: 1 << 40)  # another process was faster
    with pytest.raises(StorageError, match="No space left on device"):
        directory.save(CheckpointContents(MODEL, step=3, stage="a"))
    assert sorted(os.listdir(small_disk)) == ["00000001-a", "00000002-a", "filler"]
    for entry in directory.entries():
        entry.check()


def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    directory = CheckpointDir(tmp_path)
    directory.save(CheckpointContents(MODEL, step=1, stage="a"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(StorageError, match="File too large; .* raise `ulimit -f`"):
            directory.save(CheckpointContents(MODEL, step=2, stage="a"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["00000001-a"]
