"""lock: one process at a time writes a run's folder."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from pathlib import Path
from types import TracebackType

from lmkit.checkpoints.durable import storage_errors
from lmkit.errors import CheckpointError

logger = logging.getLogger(__name__)

NAME = ".lock"


class RunLock:
    """Holds a folder while the `with` block runs; the kernel lets go when the process dies.

    Raises:
        CheckpointError: another process holds it; the message names its id and host.
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._handle = -1

    def __enter__(self) -> RunLock:
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # never deleted: two processes could then hold locks on two files of one name
            self._handle = os.open(self.folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (
                os.read(self._handle, 200).decode(errors="replace").strip() or "another process"
            )
            self._close()
            raise CheckpointError(
                f"{holder} is working on this run",
                hint="wait for it, stop it, or give this run another `out`",
                at=self.folder,
            ) from None
        except OSError as error:
            # some network file systems know no locks
            logger.warning("%s: not locked, this file system cannot: %s", self.folder, error)
        os.ftruncate(self._handle, 0)
        os.write(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        os.close(self._handle)
        self._handle = -1
