"""A record is the same for any parts a file is written in and for any threads that read it."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkit.checkpoints import record
from lmkit.checkpoints.record import Digest, FileRecord, read_file, write_file


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "BLOCK", 64)
        patch.setattr(record, "PIECE", 16)
        yield


def by_definition(content: bytes) -> FileRecord:
    """The sha256 of one block, or that of the blocks' sha256."""
    blocks = [content[at : at + 64] for at in range(0, len(content), 64)] or [b""]
    digests = [hashlib.sha256(block).digest() for block in blocks]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()
    return FileRecord(len(content), whole.hex())


@given(parts=st.lists(st.binary(max_size=150), max_size=6))
def test_what_is_written_and_what_is_read_have_one_record(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("record") / "x"
    content = b"".join(parts)
    assert write_file(path, [memoryview(part) for part in parts]) == by_definition(content)
    assert path.read_bytes() == content
    assert read_file(path) == by_definition(content)


@pytest.mark.parametrize("size", [0, 1, 63, 64])
def test_of_one_block_it_is_what_sha256sum_prints(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    plain = FileRecord(size, hashlib.sha256(content).hexdigest())
    assert write_file(tmp_path / "x", [content]) == read_file(tmp_path / "x") == plain


def test_blocks_that_change_places_are_noticed(tmp_path: Path) -> None:
    a, b = os.urandom(64), os.urandom(64)
    assert write_file(tmp_path / "x", [a, b]) != write_file(tmp_path / "y", [b, a])


def test_no_file_is_written_over(tmp_path: Path) -> None:
    write_file(tmp_path / "x", [b"one"])
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "x", [b"two"])
    assert (tmp_path / "x").read_bytes() == b"one"


def test_a_write_that_takes_only_a_part_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:5]))
    assert write_file(tmp_path / "x", [bytes(range(99))]) == by_definition(bytes(range(99)))
    assert (tmp_path / "x").read_bytes() == bytes(range(99))


def test_a_disk_that_cannot_read_is_an_error_and_no_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "x", [bytes(300)])

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match="Input/output error"):
        read_file(tmp_path / "x")


def test_a_digest_may_be_asked_at_any_time() -> None:
    digest = Digest()
    for count in range(1, 5):
        digest.update(b"x" * 40)
        assert digest.record() == by_definition(b"x" * 40 * count)
