"""compare: in what two checkpoints differ, tensor by tensor and key by key; judges nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.checkpoints.contents import EXPERIMENT, STATE
from lmkit.checkpoints.manifest import read_json
from lmkit.checkpoints.weights import read_tensors

MISSING = "missing"
CLOCK = "seconds"  # what stands under this key no two runs share


@dataclass(frozen=True)
class Difference:
    """One thing that differs.

    Attributes:
        file: of the checkpoint,
        key: and the tensor's name in it, or the dotted key.
        what: differs, in words.
    """

    file: str
    key: str
    what: str


def compare(one: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    """All differences in weights, optimizer state, what the runner counts, and the experiment; but
    for seconds.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    both = one.manifest.files.keys() | other.manifest.files.keys()
    for file in sorted(name for name in both if name.endswith(".safetensors")):
        yield from compare_tensors(one, other, file)
    yield from _values(STATE, read_json(one.folder, STATE), read_json(other.folder, STATE))
    yield from _values(EXPERIMENT, one.experiment, other.experiment)


def compare_tensors(one: Checkpoint, other: Checkpoint, file: str) -> Iterator[Difference]:
    """The tensors of one file that differ in a bit, or are in one of the two only."""
    left, right = _tensors(one, file), _tensors(other, file)
    for name in sorted(left.keys() | right.keys()):
        if what := _apart(left.get(name), right.get(name)):
            yield Difference(file, name, what)


def _tensors(checkpoint: Checkpoint, file: str) -> dict[str, Tensor]:
    here = file in checkpoint.manifest.files
    return read_tensors(checkpoint.folder / file) if here else {}


def _apart(a: Tensor | None, b: Tensor | None) -> str:
    """In words how two tensors differ; nothing where they have the same bits."""
    if a is None or b is None:
        return f"is {MISSING} in the {'first' if a is None else 'second'}"
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"is {_kind(a)} in the first and {_kind(b)} in the second"
    if _same_bits(a, b):
        return ""
    gaps = (a.double() - b.double()).abs()
    share = (gaps != 0).double().mean().item()
    size = a.double().abs().mean().item()
    return f"up to {gaps.max().item():.3g} apart, {share:.1%} of it; its numbers are {size:.3g}"


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same as bytes: a NaN is itself, and 0.0 is not -0.0."""
    alike = a.dtype == b.dtype and a.shape == b.shape
    return alike and torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _values(file: str, one: Any, other: Any, path: str = "") -> Iterator[Difference]:
    """The leaves in which two JSON values differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted((one.keys() | other.keys()) - {CLOCK}):
            left, right = one.get(key, MISSING), other.get(key, MISSING)
            yield from _values(file, left, right, f"{path}.{key}" if path else key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _values(file, left, right, f"{path}.{index}")
    elif one != other:
        yield Difference(file, path, f"{_short(one)} in the first, {_short(other)} in the second")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
