"""durable: folders that are there whole or not at all, after any crash; knows not what is in them.

A folder is written aside, each file and then the folder fsynced, and renamed; the rename is the
moment it exists. `torch.save` over an existing file loses old and new in one of three kills.

    .tmp-NAME    being written
    .old-NAME    replaced by a new NAME, which is not in place yet or just came
    .del-NAME    being deleted
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmkit.checkpoints import disk
from lmkit.errors import StorageError

logger = logging.getLogger(__name__)

BLOCK = 1 << 20  # bytes hashed at a time
HINTS = {
    errno.ENOSPC: "make room, or point `out` at another disk",
    errno.EDQUOT: "the quota is used up: make room, or point `out` at another disk",
    errno.EFBIG: "a limit on the size of files is set: raise `ulimit -f`",
    errno.EIO: "the disk reports a fault: look at the system's log",
    errno.EROFS: "the disk is mounted read-only",
    errno.EACCES: "make the folder writable, or point `out` elsewhere",
    errno.EEXIST: "a file is in the way: move it, or point `out` elsewhere",
    errno.ENOTDIR: "a file is in the way: move it, or point `out` elsewhere",
    errno.ENOENT: "the folder is gone: was it deleted while this ran?",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into a StorageError that names `path`."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        reason = os.strerror(number) if number else str(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            reason += f" ({readable(free_bytes(path))} free)"
        raise StorageError(
            f"cannot be written: {reason}", hint=HINTS.get(number, ""), at=path
        ) from error


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder to write into; at the block's end it is durable and called `final`.

    A folder of that name is replaced; if the block fails, it stays and nothing else is left.

    Raises:
        StorageError: the disk refuses.
    """
    staging = final.with_name(f".tmp-{final.name}")
    with storage_errors(final):
        if staging.exists():
            disk.remove_tree(staging)
        disk.make_folder(staging)
        try:
            yield staging
            _sync_tree(staging)
            _publish(staging, final)
        except BaseException:
            with suppress(OSError):  # a disk that refused once may refuse this too
                disk.remove_tree(staging)
            raise


def _sync_tree(folder: Path) -> None:
    """fsync every file and folder below and including `folder`, from the leaves up."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def _publish(staging: Path, final: Path) -> None:
    aside = final.with_name(f".old-{final.name}")
    replaced = final.exists()
    if replaced:
        disk.rename(final, aside)
    try:
        disk.rename(staging, final)
    except OSError:
        if replaced:
            disk.rename(aside, final)
        raise
    sync(final.parent)
    if replaced:
        _delete(aside)


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        disk.fsync(handle)
    finally:
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Delete a folder such that a crash halfway leaves nothing that looks whole.

    A disk that refuses is logged, not raised: an old checkpoint too many stops no training.
    """
    doomed = folder.with_name(f".del-{folder.name}")
    if doomed.exists():  # one of that name could not be deleted before
        _delete(doomed)
    try:
        disk.rename(folder, doomed)
    except OSError as error:
        logger.warning("%s: cannot be deleted: %s", folder, error)
        return
    _delete(doomed)


def _delete(folder: Path) -> None:
    try:
        disk.remove_tree(folder)
    except OSError as error:
        logger.warning("%s: cannot be deleted: %s", folder, error)


def clean_leftovers(folder: Path) -> None:
    """Put right what a killed process left in `folder`; each thing done is logged.

    Raises:
        StorageError: what was replaced cannot be put back. What cannot be deleted is logged.
    """
    for path in sorted(folder.glob(".old-*")):
        name = path.with_name(path.name.removeprefix(".old-"))
        if name.exists():
            _delete(path)
        else:
            logger.warning("%s: restored: a kill came between it and its successor", name)
            with storage_errors(name):
                disk.rename(path, name)
    for path in sorted([*folder.glob(".tmp-*"), *folder.glob(".del-*")]):
        logger.warning("%s: removed: left over from a process that was killed", path)
        _delete(path)


def require_space(folder: Path, n_bytes: int) -> None:
    """Make sure that `n_bytes` fit into `folder` and that it can be written, before work begins.

    Raises:
        StorageError: too little room, or no permission.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / ".tmp-trial"
        trial.mkdir(exist_ok=True)
        trial.rmdir()
    require_room(folder, n_bytes)


def require_room(folder: Path, n_bytes: int) -> None:
    """Make sure that `n_bytes` fit into `folder`; StorageError where they do not."""
    free = free_bytes(folder)
    if free < n_bytes:
        raise StorageError(
            f"a checkpoint needs {readable(n_bytes)} and {readable(free)} are free",
            hint=HINTS[errno.ENOSPC],
            at=folder,
        )


def free_bytes(path: Path) -> int:
    """Bytes free on the disk that `path`, or the nearest parent that exists, lies on."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def readable(n_bytes: float) -> str:
    """`3.2 GiB`, for people."""
    if n_bytes < 1024:
        return f"{n_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        n_bytes /= 1024
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1024:.1f} TiB"


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hex; some 0.5-1.5 GB a second."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
