"""saver: checkpoints beside the training loop: a copy in memory now, the disk in a thread.

Weights and optimizer state are copied into host memory that is kept from save to save; 1.5 GB take
0.1 s. What takes seconds (writing, hashing, fsync, reading back, deleting older ones) is
CheckpointDir's work as ever, done by a thread that needs the interpreter's lock for milliseconds.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lmkit.checkpoints.contents import CheckpointContents, Snapshot, Tensors
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.durable import readable
from lmkit.checkpoints.weights import ALIGNMENT, untie

logger = logging.getLogger(__name__)

SAVE_SPEED = 100e6  # bytes a second: what a first save is reckoned with
PAGE = 4096  # bytes; where pages are larger some are touched twice


class Saver:
    """Writes the checkpoints of a run while the run goes on; one at a time, a second waits.

    It holds one copy of weights and optimizer state in host memory from `reserve`, or the first
    save, to the end. Where that memory is not there, one warning says so, and from then on training
    waits while a checkpoint is written.

    What fails in the thread is raised by the next `check`, `save` or `wait`, and by the end of the
    `with` block, which waits, for copies in a second place too; if an error ends the block, the
    thread's is logged beside it.

    Args:
        directory: where checkpoints are kept. Whoever reads it calls `wait` before: one may be
            under way.
        device: where the tensors lie.

    Attributes:
        seconds: that the last save took in the thread; before the first one a guess.
    """

    def __init__(self, directory: CheckpointDir, device: torch.device) -> None:
        self._directory = directory
        self._memory: HostMemory | None = HostMemory(pinned=device.type == "cuda")
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.seconds = 0.0

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            logger.error("the last checkpoint was not saved: %s", failure)
        finally:
            self._directory.close()

    def reserve(self, n_bytes: int) -> None:
        """Have memory ready for a first save of that size; it is touched in the thread."""
        self.wait()
        self.seconds = n_bytes / SAVE_SPEED
        if self._memory is not None:
            self._start(partial(_reserve, self._memory, n_bytes))

    def save(self, contents: CheckpointContents) -> None:
        """Copy all that is to be saved and begin to write it; the one before is waited for.

        Raises:
            StorageError: the one before could not be written.
            CheckpointError: JSON cannot hold a value.
        """
        self.wait()
        snapshot = contents.snapshot(number=self._directory.next_number(), copy=self._copy)
        if self._memory is None:  # it holds the model's own tensors, and the next step alters them
            self._put(snapshot)
        else:
            self._start(partial(self._put, snapshot))

    def check(self) -> None:
        """Raise what has failed in the thread, if it is done; for every step."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Until the last save is on the disk; raises what has failed in the thread."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _put(self, snapshot: Snapshot) -> None:
        started = time.monotonic()
        self._directory.put(snapshot)
        self.seconds = time.monotonic() - started

    def _start(self, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # raised again where it is waited for
                self._error = error

        # not a daemon: the interpreter's end waits for it
        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def _copy(self, tensors: Tensors) -> Tensors:
        if self._memory is None:
            return tensors
        try:
            return self._memory.copy(tensors)
        except MemoryError as error:
            logger.warning("%s: training waits while checkpoints are written", error)
            self._memory = None
            return tensors


class HostMemory:
    """Memory for a copy of tensors, kept for the next one.

    The kernel clears a page when it is first touched, 0.5 to 0.9 s a GB; to copy into pages that
    were touched before takes 0.07.

    Args:
        pinned: lock the pages, for a GPU that copies into them.
    """

    def __init__(self, *, pinned: bool = False) -> None:
        self._pinned = pinned
        self._room = torch.empty(0, dtype=torch.uint8)

    def reserve(self, n_bytes: int) -> None:
        """Have room for `n_bytes`, their pages touched.

        Raises:
            MemoryError: there is less.
        """
        if n_bytes <= self._room.nbytes:
            return
        self._room = torch.empty(0, dtype=torch.uint8)  # the old room goes before the new one comes
        free = _available()
        if free is not None and n_bytes > free:
            raise MemoryError(
                f"a copy of a checkpoint needs {readable(n_bytes)} of memory "
                f"and {readable(free)} are free"
            )
        try:
            self._room = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=self._pinned)
        except RuntimeError as error:
            raise MemoryError(
                f"a copy of a checkpoint needs {readable(n_bytes)} of memory, which was refused"
            ) from error
        self._room.numpy()[::PAGE] = 0

    @torch.no_grad()
    def copy(self, tensors: Tensors) -> Tensors:
        """The same names with copies on the host, contiguous; tied ones are tied. They are good
        until the next call.

        Raises:
            MemoryError: too little memory.
            CheckpointError: a value is no tensor.
        """
        untied = {file: untie(named) for file, named in tensors.items()}
        self.reserve(sum(_lines(t) for own, _ in untied.values() for t in own.values()))
        copies: dict[str, Mapping[str, Tensor]] = {}
        at = 0
        for file, (own, ties) in untied.items():
            named = {}
            for name, tensor in own.items():
                place = self._room[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
                named[name] = place.copy_(tensor, non_blocking=self._pinned)
                at += _lines(tensor)
            copies[file] = named | {other: named[name] for other, name in ties.items()}
        if self._pinned:
            torch.cuda.synchronize()
        return copies


def _reserve(memory: HostMemory, n_bytes: int) -> None:
    with suppress(MemoryError):  # the first save tries again, with what it really needs, and warns
        memory.reserve(n_bytes)


def _lines(tensor: Tensor) -> int:
    """Bytes of the whole cache lines that a tensor takes."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _available() -> int | None:
    """Bytes of memory that the kernel could give; None where it does not tell."""
    try:
        found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
