"""lock: one process at a time writes a run's folder."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmkit.checkpoints.durable import storage_errors
from lmkit.errors import CheckpointError

logger = logging.getLogger(__name__)

NAME = ".lock"


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Hold a folder while the `with` block runs; the kernel lets go when the process dies.

    Raises:
        CheckpointError: another process holds it; the message names its id and host.
        StorageError: the folder cannot be written.
    """
    folder = Path(folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # never deleted: two processes could then hold locks on two files of one name
        handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(handle, folder)
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
        raise CheckpointError(
            f"{holder} is working on this run",
            hint="wait for it, stop it, or give this run another `out`",
            at=folder,
        ) from None
    except OSError as error:
        # some network file systems know no locks
        logger.warning("%s: not locked, this file system cannot: %s", folder, error)
