"""Folders are there whole or not at all, and what the disk refuses is said with path and reason."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from lmkit.checkpoints import durable
from lmkit.checkpoints.durable import (
    clean_leftovers,
    readable,
    remove_folder,
    require_space,
    sha256_of,
    staged_folder,
    storage_errors,
)
from lmkit.errors import StorageError


def put(folder: Path, text: str) -> None:
    with staged_folder(folder) as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "a.txt").write_text(text)


def read(folder: Path) -> str:
    return (folder / "sub" / "a.txt").read_text()


def test_a_folder_appears_and_is_replaced_whole(tmp_path: Path) -> None:
    put(tmp_path / "x", "one")
    put(tmp_path / "x", "two")
    assert read(tmp_path / "x") == "two"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_the_old_folder_and_no_trace(
    tmp_path: Path, error: BaseException
) -> None:
    put(tmp_path / "x", "one")

    def fail() -> None:
        with staged_folder(tmp_path / "x") as staging:
            (staging / "half").write_text("")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert read(tmp_path / "x") == "one"
    assert os.listdir(tmp_path) == ["x"]


def test_files_reach_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    fsync, rename = os.fsync, os.rename

    def spy_fsync(handle: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def spy_rename(old: Path, new: Path) -> None:
        order.append(f"rename to {Path(new).name}")
        rename(old, new)

    monkeypatch.setattr(durable.os, "fsync", spy_fsync)
    monkeypatch.setattr(durable.os, "rename", spy_rename)
    put(tmp_path / "x", "one")
    assert order == ["a.txt", "sub", ".tmp-x", "rename to x", tmp_path.name]


def test_a_kill_between_two_renames_is_put_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "x", "one")
    (tmp_path / "x").rename(tmp_path / ".old-x")
    (tmp_path / ".tmp-x").mkdir()
    (tmp_path / ".del-y").mkdir()
    (tmp_path / ".old-z").mkdir()
    (tmp_path / "z").mkdir()
    with caplog.at_level(logging.WARNING):
        clean_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["x", "z"]
    assert read(tmp_path / "x") == "one"
    for name in (".tmp-x", ".del-y", "x: restored"):
        assert name in caplog.text


def test_what_cannot_be_deleted_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "x", "one")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(durable.os, "rename", refuse)
    remove_folder(tmp_path / "x")
    assert "cannot be deleted" in caplog.text
    assert read(tmp_path / "x") == "one"


def test_a_full_disk_is_named_with_path_and_room(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 74
    assert str(caught.value).startswith(f"{tmp_path / 'x'}: cannot be written: No space left")
    assert "free)" in str(caught.value)
    assert "make room" in str(caught.value)


def test_too_little_room_is_found_before_work_begins(tmp_path: Path) -> None:
    require_space(tmp_path / "new" / "run", 1)
    assert os.listdir(tmp_path / "new" / "run") == []
    with pytest.raises(StorageError, match=r"needs 1024\.0 TiB and .* are free"):
        require_space(tmp_path, 1 << 50)


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        require_space(tmp_path / "file" / "run", 1)


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_sizes_read_well() -> None:
    sizes = [0, 1023, 1024, 1500 * 1024, 3 << 30, 5 << 40]
    shown = ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "3.0 GiB", "5.0 TiB"]
    assert [readable(size) for size in sizes] == shown
