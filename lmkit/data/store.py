"""store: tokenised documents on the disk, read through memory maps; knows no text and no rows.

A store is a folder: `index.json`, `starts.bin` and `lengths.bin` (where each document lies, int64),
`tokens.bin` (or shards elsewhere that the index names) and, for prompts, `mask.bin`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from array import array
from bisect import bisect_right
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmkit.data.cache import file_digest
from lmkit.errors import DataError, StorageError, TokenizerError
from lmkit.text import Tokenizer

FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """A file of token ids: its path (relative: in the store's folder), its size, its header."""

    path: str
    bytes: int
    header: int = 0


def dtype_of(vocab_size: int) -> np.dtype[Any]:
    """The smallest of uint16 and uint32 that holds every id."""
    return np.dtype("uint16" if vocab_size <= 2**16 else "uint32")


class TokenStore:
    """Documents as token ids, without the bos that goes in front of each.

    Attributes:
        lengths: (documents,) int64, tokens of each document.
        prompts: every document is a sample with a mask, to be kept whole; else text, to be cut.
        vocab_size: every id is smaller.
        notes: what happened while it was made: counts of samples trimmed or left out.

    Args:
        folder: what `prepare` made.

    Raises:
        DataError: it is no store, or a file of it is missing or has another size than the index
            says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = _read_index(folder)
        self.about: str = index["about"]
        self.notes: dict[str, Any] = index["notes"]
        self.prompts: bool = index["prompts"]
        self.vocab_size: int = index["vocab_size"]
        self.token_count: int = index["tokens"]
        self.tokenizer: str = index["tokenizer"]
        self._digests: dict[str, str] = index["sha256"]
        self._mapped: dict[Path, mmap.mmap] = {}
        self.lengths = self._map(Shard(**index["lengths"]), np.dtype(np.int64))
        self._starts = self._map(Shard(**index["starts"]), np.dtype(np.int64))
        mask = index["mask"]
        self._mask = self._map(Shard(**mask), np.dtype(bool)) if mask else None
        dtype = np.dtype(index["dtype"])
        self._shards = [self._map(Shard(**shard), dtype) for shard in index["shards"]]
        # where each shard begins, counted in tokens of all
        self._bounds = np.cumsum([0, *map(len, self._shards)]).tolist()

    @property
    def document_count(self) -> int:
        """How many documents there are."""
        return len(self.lengths)

    def tokens(self, document: int, start: int, stop: int) -> np.ndarray:
        """Tokens start..stop of a document: (stop - start,) uint16 or uint32, not to be changed."""
        at = int(self._starts[document]) + start
        shard = bisect_right(self._bounds, at) - 1
        at -= self._bounds[shard]
        return self._shards[shard][at : at + stop - start]

    def mask(self, document: int, start: int, stop: int) -> np.ndarray | None:
        """(stop - start,) bool, which of these tokens are trained; None for text: all are."""
        if self._mask is None:
            return None
        at = int(self._starts[document])
        return self._mask[at + start : at + stop]

    def check(self) -> None:
        """See that no file was cut since it was opened: reading on would kill the process (SIGBUS).

        Raises:
            StorageError: one was.
        """
        for path, mapped in self._mapped.items():
            if mapped.size() < len(mapped):
                raise StorageError(
                    f"cut from {len(mapped):,} to {mapped.size():,} bytes while it was read",
                    hint="bring the file back and resume",
                    at=path,
                )

    def verify(self) -> None:
        """Read everything and compare it with the index.

        Raises:
            DataError: a file's sha256 is not the recorded one.
        """
        for name, wanted in self._digests.items():
            if file_digest(self.folder / name) != wanted:
                raise DataError(
                    f"altered: its sha256 is not {wanted[:12]}...",
                    hint=self._remedy(self.folder / name),
                    at=self.folder / name,
                )

    def _map(self, shard: Shard, dtype: np.dtype[Any]) -> np.ndarray:
        path = self.folder / shard.path
        try:
            with path.open("rb") as file:
                real = os.fstat(file.fileno()).st_size
                if real != shard.bytes:
                    raise DataError(
                        f"has {real:,} bytes, expected {shard.bytes:,}",
                        hint=self._remedy(path),
                        at=path,
                    )
                if real == shard.header:  # an empty file cannot be mapped
                    return np.zeros(0, dtype)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
            raise DataError(reason, hint=self._remedy(path), at=path) from error
        self._mapped[path] = mapped
        return np.frombuffer(mapped, dtype, offset=shard.header)

    def _remedy(self, path: Path) -> str:
        if path.parent == self.folder:
            return f"delete {self.folder}: it is made again at the next start"
        return "copy the file again"


class StoreWriter:
    """Writes a store's folder, one document after another; a context, which closes its files.

    Args:
        folder: an empty folder.
        tokenizer: what the ids come from.
        prompts: the documents are samples with a mask.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, *, prompts: bool) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.dtype = dtype_of(tokenizer.vocab_size)
        self._lengths = array("q")
        self._length = 0
        self._tokens = _HashedFile(folder / "tokens.bin")
        self._mask = _HashedFile(folder / "mask.bin") if prompts else None

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._tokens, self._mask):
            if file is not None:
                file.close()

    def write(self, ids: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Add tokens to the current document.

        Raises:
            TokenizerError: an id is not in 0..vocab_size - 1; it would wrap around in silence.
        """
        vocab_size = self.tokenizer.vocab_size
        if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise TokenizerError(
                f"the tokenizer gave the id {wrong}; its vocab_size is {vocab_size}"
            )
        self._tokens.write(ids.astype(self.dtype).data)
        if self._mask is not None and mask is not None:
            self._mask.write(mask.astype(bool).data)
        self._length += ids.size

    def end_document(self) -> None:
        """Close the current document; one without tokens is none."""
        if self._length:
            self._lengths.append(self._length)
            self._length = 0

    @property
    def document_count(self) -> int:
        """Documents closed so far."""
        return len(self._lengths)

    def finish(self, about: str, notes: dict[str, Any]) -> None:
        """Write the index. The store is whole after that."""
        lengths = np.array(self._lengths, dtype=np.int64)
        digests = {"tokens.bin": self._tokens.close()}
        if self._mask is not None:
            digests["mask.bin"] = self._mask.close()
        write_index(
            self.folder,
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
            shards=[Shard("tokens.bin", (self.folder / "tokens.bin").stat().st_size)],
            dtype=self.dtype,
            tokenizer=self.tokenizer,
            about=about,
            notes=notes,
            digests=digests,
        )


def write_index(
    folder: Path,
    *,
    starts: np.ndarray,
    lengths: np.ndarray,
    shards: list[Shard],
    dtype: np.dtype[Any],
    tokenizer: Tokenizer,
    about: str,
    notes: dict[str, Any],
    digests: dict[str, str],
) -> None:
    """Write `starts.bin`, `lengths.bin` and `index.json` for token files that are there."""
    parts = {}
    for name, values in {"starts": starts, "lengths": lengths}.items():
        data = np.ascontiguousarray(values, dtype=np.int64)
        (folder / f"{name}.bin").write_bytes(data.data)
        parts[name] = Shard(f"{name}.bin", data.nbytes)
        digests = {**digests, f"{name}.bin": hashlib.sha256(data.data).hexdigest()}
    mask = folder / "mask.bin"
    index = {
        "format": FORMAT,
        "about": about,
        "documents": len(lengths),
        "tokens": int(lengths.sum()),
        "dtype": dtype.name,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "prompts": mask.exists(),
        "shards": [asdict(shard) for shard in shards],
        "mask": asdict(Shard(mask.name, mask.stat().st_size)) if mask.exists() else None,
        **{name: asdict(part) for name, part in parts.items()},
        "sha256": digests,
        "notes": notes,
    }
    text = json.dumps(index, indent=1, ensure_ascii=False)
    (folder / "index.json").write_text(text + "\n", encoding="utf-8")


class _HashedFile:
    """A file that is written from front to back, and its sha256."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    def write(self, data: memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)

    def close(self) -> str:
        self._file.close()
        return self._digest.hexdigest()


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] == FORMAT:
            return index
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "there is no readable index of tokens", hint=f"delete {folder}", at=path
        ) from error
    raise DataError(
        f"its format is {index['format']}, this version reads {FORMAT}",
        hint=f"delete {folder}: it is made again at the next start",
        at=path,
    )
