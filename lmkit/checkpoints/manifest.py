"""manifest: the list of a checkpoint's files; says whether they are all as they were written.

A stock format notices one bit flip in a hundred; this notices all. `record` says what is hashed.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lmkit.checkpoints.durable import sha256_of
from lmkit.checkpoints.record import FileRecord, read_file, write_file
from lmkit.errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT = 2
PLAIN = 1  # the format before, whose hash of any file is the plain sha256; it is read too
MOST_BYTES = 16 << 20  # of JSON; a manifest has some 100 bytes a file
MOST_DEPTH = 100  # an experiment is some 10 deep


@dataclass(frozen=True)
class Manifest:
    """The files of a checkpoint, by their path in its folder. It says nothing else: a flipped bit
    in it could not go unnoticed, as every word of it is compared with something."""

    folder: Path
    files: Mapping[str, FileRecord]
    format: int = FORMAT

    @classmethod
    def write(cls, folder: Path, known: Mapping[str, FileRecord] | None = None) -> None:
        """Record every file below `folder`; OSError where the disk refuses.

        Args:
            known: records taken while their files were written, which need not be read for it.
        """
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {path.relative_to(folder).as_posix(): path for path in found}
        known = known or {}
        files = {name: asdict(known.get(name) or read_file(path)) for name, path in names.items()}
        text = json.dumps({"format": FORMAT, "files": files}, indent=2) + "\n"
        write_file(folder / MANIFEST, [text.encode()])

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of `folder`; opens no other file.

        Raises:
            CheckpointError: there is none, it is damaged, of a newer lmkit, or it names a file
                outside the folder.
        """
        content = read_json(folder, MANIFEST)
        if content.get("format") not in (PLAIN, FORMAT):
            raise CheckpointError(
                f"format {content.get('format')!r} is not {FORMAT}, which this lmkit reads",
                hint="install the lmkit that wrote it",
                at=folder,
            )
        files = content.get("files")
        if not isinstance(files, dict):
            raise CheckpointError(f"{MANIFEST} is damaged", at=folder)
        records = {name: _record(folder, name, entry) for name, entry in files.items()}
        return cls(folder, records, content["format"])

    def check(self, *, hashes: bool = True, skip: Container[str] = ()) -> None:
        """Compare the files with their records.

        Args:
            hashes: also read every file, except those in `skip`; sizes are compared always.

        Raises:
            CheckpointError: names the first file that is missing or altered, and in which way.
        """
        for name, record in self.files.items():
            path = regular_file(self.folder, name)
            size = path.stat().st_size
            if size != record.size:
                raise CheckpointError(
                    f"{name} has {size:,} bytes, not {record.size:,}", at=self.folder
                )
            if hashes and name not in skip and self._sha256(path) != record.sha256:
                raise CheckpointError(f"{name} is altered: its sha256 is another", at=self.folder)

    def _sha256(self, path: Path) -> str:
        try:
            return sha256_of(path) if self.format == PLAIN else read_file(path).sha256
        except OSError as error:
            raise CheckpointError(f"{path.name} cannot be read: {error}", at=path.parent) from error


def _record(folder: Path, name: str, entry: Any) -> FileRecord:
    _refuse_outside(folder, name)
    if not (
        isinstance(entry, dict)
        and type(entry.get("size")) is int
        and isinstance(entry.get("sha256"), str)
        and re.fullmatch("[0-9a-f]{64}", entry["sha256"])
    ):
        raise CheckpointError(f"{MANIFEST} is damaged at {name!r}", at=folder)
    return FileRecord(entry["size"], entry["sha256"])


def _refuse_outside(folder: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name:
        raise CheckpointError(f"names a file outside the folder: {name!r}", at=folder)


def regular_file(folder: Path, name: str) -> Path:
    """The path of a file of the folder, reached through no link.

    Raises:
        CheckpointError: it is missing, a link, no file, or outside the folder.
    """
    _refuse_outside(folder, name)
    path = folder
    try:
        for part in PurePosixPath(name).parts:
            path = path / part
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise CheckpointError(f"{name} is a link", at=folder)
    except (OSError, ValueError):
        raise CheckpointError(f"{name} is missing", at=folder) from None
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{name} is no file", at=folder)
    return path


def _refuse_depth(content: Any) -> None:
    """ValueError for what is nested so deeply that whoever walks it would run out of stack."""
    inner = [content]
    for _ in range(MOST_DEPTH):
        inner = [each for each in inner if isinstance(each, dict | list)]
        if not inner:
            return
        tables = (each.values() if isinstance(each, dict) else each for each in inner)
        inner = [item for table in tables for item in table]
    raise ValueError(f"it is nested more than {MOST_DEPTH} deep")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object from one of the folder's files.

    Raises:
        CheckpointError: it is missing, unreadable, or no JSON object.
    """
    path = regular_file(folder, name)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        _refuse_depth(content)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is damaged: {error}", at=folder) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{name} is damaged: no JSON object", at=folder)
    return content
