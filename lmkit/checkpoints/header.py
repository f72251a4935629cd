"""header: what a safetensors file says of its tensors, checked before one of them is touched.

Eight bytes say how long the header is; it is JSON, {name: {dtype, shape, data_offsets}}; behind it
lie the tensors' bytes without gap or overlap (https://github.com/huggingface/safetensors). A file
may come from a stranger: nothing that it says decides how much memory is taken before it was
compared with the file's own size.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmkit.errors import CheckpointError

MOST_BYTES = 32 << 20  # of a header; some 100 a tensor
MOST_DIMENSIONS = 64  # as numpy has it
TIES = "ties"  # the metadata's key: JSON {other name: stored name}
METADATA = "__metadata__"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_BY_NAME = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Stored:
    """A tensor as the header describes it."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The tensors of a file by every name that they have; `ties` is {other name: stored name}."""

    tensors: Mapping[str, Stored]
    ties: Mapping[str, str]


class _Wrong(Exception):
    """What is wrong with a header."""


def read_header(path: Path) -> Header:
    """Read and check a file's header; of the tensors not a byte is read.

    Raises:
        CheckpointError: the file is no safetensors file, is cut, or its header describes what
            cannot be: a length beyond the file or of more than 32 MiB, a name twice, an unknown
            dtype, a shape that does not fill its bytes, bytes that overlap or belong to nobody.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise _Wrong(f"{size:,} bytes are too few for its header")
            if length > MOST_BYTES:
                raise _Wrong(f"its header has {length:,} bytes, {MOST_BYTES >> 20} MiB at most")
            text = file.read(length)
        return _header(json.loads(text, object_pairs_hook=_once), size - 8 - length)
    except (_Wrong, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot be read: {error}", at=path) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise _Wrong("its header has a name twice")
    return table


def _header(content: Any, size: int) -> Header:
    if not isinstance(content, dict):
        raise _Wrong("its header is no JSON object")
    metadata = content.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(type(text) is str for text in metadata.values()):
        raise _Wrong("its metadata are no texts")
    stored: dict[str, Stored] = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in content.items():
        stored[name], begin, end = _stored(name, entry)
        places.append((begin, end, name))
    reached = 0
    for begin, end, name in sorted(places):
        if begin != reached:
            raise _Wrong(f"{_cut(name)} begins at {begin}, what is before it ends at {reached}")
        reached = end
    if reached != size:
        raise _Wrong(f"its tensors have {reached:,} bytes, the file holds {size:,}")
    ties = _ties(metadata.get(TIES, "{}"), stored)
    return Header({**stored, **{name: stored[first] for name, first in ties.items()}}, ties)


def _stored(name: str, entry: Any) -> tuple[Stored, int, int]:
    """A tensor, and where its bytes begin and end."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _Wrong(f"{_cut(name)} is not described by dtype, shape and data_offsets")
    dtype = _BY_NAME.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _Wrong(f"{_cut(name)} has the dtype {_cut(entry['dtype'])}, which is not known")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or len(shape) > MOST_DIMENSIONS:
        raise _Wrong(f"{_cut(name)} has no shape, but {_cut(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _Wrong(f"{_cut(name)} lies nowhere: {_cut(offsets)}")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _Wrong(f"{_cut(name)} of shape {_cut(shape)} does not fill {end - begin} bytes")
    return Stored(dtype, tuple(shape)), begin, end


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _ties(text: str, stored: Mapping[str, Stored]) -> dict[str, str]:
    ties = json.loads(text, object_pairs_hook=_once)
    if not isinstance(ties, dict):
        raise _Wrong("its ties are no names")
    for name, first in ties.items():
        if name in stored or not isinstance(first, str) or first not in stored:
            raise _Wrong(f"{_cut(name)} cannot stand for {_cut(first)}")
    return ties


def _cut(value: Any) -> str:
    """At most so much of it as an error's line can hold."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
