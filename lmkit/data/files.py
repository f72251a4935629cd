"""files: paths and globs to files, files to text or lines; knows no columns and no splits."""

from __future__ import annotations

import glob
import gzip
import importlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmkit.errors import DataError


@dataclass(frozen=True)
class Found:
    """A file, and its name below the folder or glob that found it (posix, stable between disks)."""

    name: str
    path: Path


def find_files(patterns: str | Sequence[str], folder: str | None = None) -> list[Found]:
    """The files that are meant, in a fixed order: the patterns', and by name within one.

    Args:
        patterns: files, folders (all that is below them, hidden files apart) or globs (`**` too).
        folder: where a relative pattern is looked up before the current folder.

    Raises:
        DataError: a pattern matches no file.
    """
    found: dict[Path, Found] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not pattern:  # it would mean the folder, with the YAML and all the runs in it
            raise DataError("path is empty", hint="name a file, a folder or a glob")
        for file in _matches(pattern, folder):
            found.setdefault(file.path, file)
    if not found:
        raise DataError("path is an empty list", hint="name a file, a folder or a glob")
    return list(found.values())


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The whole file, line ends as they are, without a byte order mark.

    Raises:
        DataError: it cannot be read, is binary, or is of another encoding.
    """
    with reading(path):
        data = path.read_bytes()
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"not {encoding} text (byte 0x{data[error.start]:02x} at {error.start:,})",
            hint="name its encoding:, or leave the file out",
            at=path,
        ) from error
    except LookupError as error:
        raise DataError(f"there is no encoding {encoding!r}", at=path) from error
    zero = text.find("\0")
    if zero >= 0:
        raise DataError(
            f"a binary file (a NUL at {zero:,})", hint="leave it out, or name a glob", at=path
        )
    return text.removeprefix("\ufeff")


def open_lines(path: Path) -> Iterator[bytes]:
    """The lines of a plain, `.gz` or `.zst` file.

    Raises:
        DataError: it cannot be read or unpacked, or `.zst` without the data extra.
    """
    with reading(path):
        if path.suffix == ".zst":
            yield from _zst_lines(path)
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                yield from file


def extra(module: str, at: Path | None = None) -> Any:
    """A package of the `[data]` extra, imported when it is needed.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"this needs the package {module.partition('.')[0]}",
            hint="pip install 'lmkit[data]'",
            at=at,
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into one line that names it."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the compressed file is damaged: {error}", at=path) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", at=path) from error


def _zst_lines(path: Path) -> Iterator[bytes]:
    """Lines of a file of one or more zstd frames; the package's own reader takes a cut one."""
    zstandard = extra("zstandard", at=path)
    rest, frame = b"", None
    with path.open("rb") as file:
        while block := file.read(2**20):
            while block:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    *lines, rest = (rest + frame.decompress(block)).split(b"\n")
                except zstandard.ZstdError as error:
                    raise EOFError(error) from error
                yield from (line + b"\n" for line in lines)
                block = frame.unused_data
                frame = None if frame.eof else frame
    if frame:
        raise EOFError("it ends in the middle")
    if rest:
        yield rest


def _matches(pattern: str, folder: str | None) -> list[Found]:
    places = [Path(folder)] if folder is not None else []
    places.append(Path.cwd())
    for place in places:
        target = place / Path(pattern).expanduser()  # an absolute pattern stays as it is
        if target.is_file():
            return [Found(target.name, target)]
        if target.is_dir():
            files = _below(target, "**/*")
            if not files:
                raise DataError("the folder has no file", at=target)
            return files
        if glob.has_magic(pattern):
            root = target
            while glob.has_magic(str(root)):
                root = root.parent
            files = _below(root, target.relative_to(root).as_posix())
            if files:
                return files
    looked = (
        ""
        if Path(pattern).is_absolute()
        else "looked in " + ", ".join(dict.fromkeys(map(str, places)))
    )
    what = "no file matches" if glob.has_magic(pattern) else "no such file or folder"
    raise DataError(what, hint=looked, at=pattern)


def _below(root: Path, pattern: str) -> list[Found]:
    names = sorted(
        Path(name).as_posix() for name in glob.glob(pattern, root_dir=root, recursive=True)
    )
    return [Found(name, root / name) for name in names if (root / name).is_file()]
