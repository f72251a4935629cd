"""shards: files of token ids that somebody else made, as a source; knows no text.

Two formats: nanoGPT's `.bin`, ids and nothing else; and the same with the 1,024-byte header of
llm.c (https://github.com/karpathy/llm.c), found by its first number. A folder that lmkit's own
`prepare` made can be named too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmkit.data.cache import file_digest, fingerprint_of, publish
from lmkit.data.files import Found, find_files
from lmkit.data.holdout import Split
from lmkit.data.sources import Source
from lmkit.data.store import FORMAT, Shard, TokenStore, write_index
from lmkit.errors import DataError
from lmkit.prompts import Prompt
from lmkit.text import Tokenizer

LLMC_MAGIC, LLMC_HEADER = 20240520, 1024
_SCANNED = 2**24  # ids looked at in one go


class TokenShards(Source):
    """Ready token ids. A document ends at the tokenizer's bos or eos.

    The files stay where they are: the first start reads them once and notes in the cache where each
    document lies.

    Args:
        path: a file, a folder, a glob, or a list of them.
        dtype: of the ids, little-endian.
        validation: the held-out files, named the same way.
        folder: the YAML's folder, where relative paths are looked up first.
    """

    def __init__(
        self,
        path: str | list[str],
        *,
        dtype: Literal["uint16", "uint32"] = "uint16",
        validation: str | list[str] | None = None,
        folder: str | None = None,
    ) -> None:
        self.path = path
        self.dtype = dtype
        self.validation = validation
        self.folder = folder

    def files(self, split: Split) -> list[Found]:
        """The files of a split; none for a validation that is not named."""
        wanted = [] if split == "validation" else [self.path]
        if split != "train" and self.validation is not None:
            wanted.append(self.validation)
        return [file for path in wanted for file in find_files(path, self.folder)]

    def store(self, tokenizer: Tokenizer, split: Split, cache: Path) -> TokenStore:
        """The ids of a split, indexed.

        Raises:
            DataError: a file is missing, empty, cut, or has an id that the tokenizer has not.
        """
        files = self.files(split)
        if any(file.name == "index.json" for file in files):
            return _own_store(files, tokenizer)
        about = [
            *("shards", FORMAT, self.dtype, tokenizer.bos, tokenizer.eos, tokenizer.vocab_size),
            [[str(file.path.resolve()), file_digest(file.path)] for file in files],
        ]

        def write(folder: Path) -> None:
            _index_shards(folder, files, np.dtype(self.dtype), tokenizer, self.describe())

        return TokenStore(publish(cache / "tokens" / fingerprint_of(about)[:32], write))

    def documents(self, split: Split) -> Iterator[Prompt]:
        raise DataError("these files hold token ids; there is no text in them", at=str(self.path))

    def fingerprint(self) -> str:
        digests = [file_digest(file.path) for file in self.files("all")]
        return fingerprint_of(["TokenShards", self.dtype, len(self.files("train")), digests])

    def describe(self) -> str:
        files = self.files("train")
        size = sum(file.path.stat().st_size for file in files)
        tokens = size / np.dtype(self.dtype).itemsize
        return f"TokenShards: {len(files):,} files, about {tokens / 1e6:,.1f} M tokens"

    def available(self) -> bool:
        try:
            return bool(self.files("train"))
        except DataError:
            return False


def _own_store(files: list[Found], tokenizer: Tokenizer) -> TokenStore:
    store = TokenStore(files[0].path.parent)
    if store.tokenizer != tokenizer.fingerprint:
        raise DataError(
            "these ids come from another tokenizer",
            hint="name the tokenizer that they were made with",
            at=store.folder,
        )
    return store


def _index_shards(
    folder: Path, files: list[Found], dtype: np.dtype[Any], tokenizer: Tokenizer, about: str
) -> None:
    _check_numbering(files)
    shards, starts, lengths, before = [], [], [], 0
    for file in files:
        shard = _shard(file.path, dtype)
        count = (shard.bytes - shard.header) // dtype.itemsize
        begins, ends = _documents(shard, count, dtype, tokenizer)
        shards.append(shard)
        starts.append(begins + before)
        lengths.append(ends - begins)
        before += count
    none = np.zeros(0, dtype=np.int64)
    write_index(
        folder,
        starts=np.concatenate([none, *starts]),
        lengths=np.concatenate([none, *lengths]),
        shards=shards,
        dtype=dtype,
        tokenizer=tokenizer,
        about=about,
        notes={},
        digests={},
    )


def _check_numbering(files: list[Found]) -> None:
    """Refuse numbered files with a gap: a shard was forgotten."""
    numbers: dict[str, set[int]] = {}
    for file in files:
        if match := re.fullmatch(r"(.*?)(\d+)(\.\w+)", file.name):
            numbers.setdefault(f"{match[1]}*{match[3]}", set()).add(int(match[2]))
    for name, seen in numbers.items():
        missing = sorted(set(range(min(seen), max(seen))) - seen)
        if missing:
            listed = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            raise DataError(
                f"{len(missing)} shards are missing between {min(seen)} and {max(seen)}: {listed}",
                hint="get them, or name the files in a list",
                at=name,
            )


def _shard(path: Path, dtype: np.dtype[Any]) -> Shard:
    """The file's size and header, checked."""
    size = path.stat().st_size
    if size == 0:
        raise DataError("the file is empty", at=path)
    head = np.fromfile(path, dtype=np.int32, count=3)
    if len(head) == 3 and head[0] == LLMC_MAGIC:
        wanted = LLMC_HEADER + int(head[2]) * dtype.itemsize
        if size != wanted:
            raise DataError(
                f"has {size:,} bytes, expected {wanted:,} by its header",
                hint=f"copy it again; or its dtype is not {dtype.name}",
                at=path,
            )
        return Shard(str(path.resolve()), size, LLMC_HEADER)
    if size % dtype.itemsize:
        raise DataError(
            f"{size:,} bytes are no whole number of {dtype.name} ids",
            hint="copy it again, or name its dtype:",
            at=path,
        )
    return Shard(str(path.resolve()), size)


def _documents(
    shard: Shard, count: int, dtype: np.dtype[Any], tokenizer: Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """Where the documents of a file begin and end: (documents,) int64 each, bos left out."""
    begins, ends = [np.zeros(1, dtype=np.int64)], []
    for at in range(0, count, _SCANNED):
        offset = shard.header + at * dtype.itemsize
        ids = np.fromfile(shard.path, dtype=dtype, count=_SCANNED, offset=offset)
        if int(ids.max()) >= tokenizer.vocab_size:
            wrong = int(np.argmax(ids >= tokenizer.vocab_size))
            raise DataError(
                f"token {at + wrong:,} is {ids[wrong]}; the vocabulary has {tokenizer.vocab_size}",
                hint="name the tokenizer and the dtype: that the file was made with",
                at=shard.path,
            )
        bos = np.flatnonzero(ids == tokenizer.bos) + at
        eos = np.flatnonzero(ids == tokenizer.eos) + at if tokenizer.eos != tokenizer.bos else bos
        # an eos is its document's last token, a bos belongs to no document
        ends.append(np.sort(np.concatenate([bos, eos + 1])) if eos is not bos else bos)
        begins.append(np.sort(np.concatenate([bos, eos]) + 1) if eos is not bos else bos + 1)
    first = np.concatenate(begins)
    last = np.concatenate([*ends, np.array([count])])
    full = last > first
    return first[full], last[full]
