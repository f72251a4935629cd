"""cache: where prepared things lie, and how they get there whole; knows no tokens.

A folder in the cache is there complete or not at all: it is written aside, flushed to the disk and
renamed. Of several processes that want the same folder one writes and the others wait for it on a
file lock, which the kernel releases if the writer dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmkit.data.files import reading
from lmkit.errors import StorageError

# files from this size on (0.05 s of sha256) have their digest remembered between starts
REMEMBERED_BYTES = 32 * 2**20


def cache_folder() -> Path:
    """`$LMKIT_CACHE`, or `~/.cache/lmkit`."""
    return Path(os.environ.get("LMKIT_CACHE") or "~/.cache/lmkit").expanduser()


def fingerprint_of(about: Any) -> str:
    """sha256 of plain data, whatever the order of its keys."""
    text = json.dumps(about, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def publish(folder: Path, write: Callable[[Path], None], *, quiet: bool = False) -> Path:
    """The folder, written by `write(aside)` if it is not there yet.

    Args:
        write: fills the empty folder that it is given.
        quiet: do not tell that another process is waited for.

    Raises:
        StorageError: the disk is full, or the cache cannot be written.
    """
    if folder.is_dir():
        return folder
    aside = folder.with_name(f"{folder.name}.partial")
    with _alone(folder, quiet):
        if folder.is_dir():  # made by the process that we waited for
            return folder
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            write(aside)
            _flush(aside)
            aside.rename(folder)
            _flush_entry(folder.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    return folder


def publish_file(path: Path, write: Callable[[Path], None], *, quiet: bool = False) -> Path:
    """The file, written by `write(aside)` if it is not there yet.

    Args:
        write: writes the file that it is given. After a failure what it wrote is left to the next
            try, which may go on with it: a download.
        quiet: do not tell that another process is waited for.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    if path.is_file():
        return path
    aside = path.with_name(f"{path.name}.partial")
    with _alone(path, quiet):
        if not path.is_file():
            write(aside)
            _flush_entry(aside)
            aside.rename(path)
            _flush_entry(path.parent)
    return path


def file_digest(path: Path) -> str:
    """sha256 of a file's content; a large file is read again only if its time or size changed.

    Raises:
        DataError: it cannot be read.
    """
    with reading(path):
        status = path.stat()
        if status.st_size < REMEMBERED_BYTES:
            return hashlib.sha256(path.read_bytes()).hexdigest()
    seen = [str(path.resolve()), status.st_size, status.st_mtime_ns]
    note = cache_folder() / "digests" / fingerprint_of(seen)
    if not note.is_dir():
        publish(note, lambda aside: _write_digest(path, aside))
    return (note / "sha256").read_text()


def _write_digest(path: Path, folder: Path) -> None:
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    (folder / "sha256").write_text(digest.hexdigest())


@contextmanager
def _alone(target: Path, quiet: bool) -> Iterator[None]:
    """Be the only process that makes a file or folder; what the disk refuses is one line."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # the lock file stays, empty: removing it would let two processes hold one each
        with target.with_name(f"{target.name}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not quiet:
                    print(f"waiting for another process to write {target}", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise StorageError(
            f"cannot write the cache: {error.strerror or error}",
            hint="free some space there, or set LMKIT_CACHE to another folder",
            at=error.filename or target.parent,
        ) from error


def _flush(folder: Path) -> None:
    """Bring every file below the folder, and the folders' own entries, to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        _flush_entry(Path(parent))


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
