"""record: the size and sha256 of a file, taken while it is written or by reading it back.

A file of more than one block has the sha256 of its blocks' sha256, so that a reader can hash with
as many threads as there are cores: one hashes 0.6-1.7 GB a second. Of a smaller file it is what
`sha256sum` prints.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lmkit.checkpoints import disk

BLOCK = 16 << 20  # bytes hashed as one; part of the format
PIECE = 1 << 20  # bytes read at a time
MOST_THREADS = 8  # more read faster than any disk gives


@dataclass(frozen=True)
class FileRecord:
    """What a file was when it was written."""

    size: int
    sha256: str


class Digest:
    """The sha256 of what `update` was given, block by block."""

    def __init__(self) -> None:
        self.size = 0
        self._whole: list[bytes] = []  # of each block that is full
        self._block = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """Take `data` in; of large data without the interpreter's lock."""
        rest = memoryview(data)
        while rest:
            head = rest[: BLOCK - self.size % BLOCK]
            self._block.update(head)
            self.size += len(head)
            rest = rest[len(head) :]
            if self.size % BLOCK == 0:
                self._whole.append(self._block.digest())
                self._block = hashlib.sha256()

    def record(self) -> FileRecord:
        """Of all that was taken in so far."""
        rest = [self._block.digest()] if self.size % BLOCK or not self.size else []
        return FileRecord(self.size, _join([*self._whole, *rest]))


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> FileRecord:
    """Write a new file; its record is that of the bytes in memory, so that reading the file back
    and comparing says whether the disk has them.

    Raises:
        OSError: the disk refuses, or there is such a file.
    """
    digest = Digest()
    handle = disk.create(path)
    try:
        for part in parts:
            for start in range(0, len(part), BLOCK):
                piece = memoryview(part)[start : start + BLOCK]
                digest.update(piece)
                while piece:
                    piece = piece[disk.write(handle, piece) :]
    finally:
        os.close(handle)
    return digest.record()


def read_file(path: Path) -> FileRecord:
    """The record of a file as it is now; hashed by several threads where it is large.

    Raises:
        OSError: it cannot be read. It is not mapped into memory, where a disk's fault would be a
            signal and not an error.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size
        starts = range(0, max(size, 1), BLOCK)
        threads = min(len(starts), os.cpu_count() or 1, MOST_THREADS)
        if threads == 1:
            return FileRecord(size, _join([_hash_block(handle, start) for start in starts]))
        with ThreadPoolExecutor(threads) as pool:
            digests = pool.map(lambda start: _hash_block(handle, start), starts)
            return FileRecord(size, _join(list(digests)))
    finally:
        os.close(handle)


def _hash_block(handle: int, start: int) -> bytes:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(PIECE))
    at = start
    while at < start + BLOCK:
        n_bytes = os.preadv(handle, [buffer[: start + BLOCK - at]], at)
        if not n_bytes:
            break
        digest.update(buffer[:n_bytes])
        at += n_bytes
    return digest.digest()


def _join(blocks: list[bytes]) -> str:
    return blocks[0].hex() if len(blocks) == 1 else hashlib.sha256(b"".join(blocks)).hexdigest()
