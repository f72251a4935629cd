"""weights: named tensors to a safetensors file and back, tied ones stored once; knows no folder.

Tensors in such a file share no memory, so of those that are one and the same the first name is
stored and the file's header says which other names stand for it. The file is written here and not
by safetensors, which would write it in one call: this way every write is hashed, can fail or be
killed in a test, and needs no tensor to be on the CPU before its turn. Reading is safetensors'.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lmkit.checkpoints.header import DTYPES, METADATA, TIES, Header, Stored, read_header
from lmkit.checkpoints.record import FileRecord, write_file
from lmkit.errors import CheckpointError
from lmkit.optim.parts import held, piece_of

ALIGNMENT = 64  # bytes of a cache line


def write_tensors(path: Path, named: Mapping[str, Tensor]) -> FileRecord:
    """Write tensors of any device to a new file.

    Raises:
        OSError: the disk refuses.
        CheckpointError: a value is no tensor, or of a dtype that such a file cannot hold.
    """
    tensors, ties = untie(named)
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"'{name}' is {_short(tensor)}, which no file can hold")
    order = sorted(tensors, key=lambda name: (*_alignment(tensors[name]), name))
    return write_file(path, _parts({name: tensors[name] for name in order}, ties))


def _alignment(tensor: Tensor) -> tuple[bool, int]:
    """By this order a tensor of whole cache lines starts at one, as torch's own memory does, and
    every other at a multiple of its element's size."""
    return tensor.nbytes % ALIGNMENT != 0, -tensor.element_size()


def _parts(tensors: Mapping[str, Tensor], ties: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The file, a piece at a time: the header's length, the header, and each tensor's bytes."""
    header: dict[str, Any] = {METADATA: {TIES: json.dumps(ties)}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        kind, shape = DTYPES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by every name they have, mapped into memory: read when touched.

    Raises:
        CheckpointError: the file is no safetensors file or is damaged.
    """
    return _read(path, read_header(path))


def _read(path: Path, header: Header) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            first = {name: header.ties.get(name, name) for name in header.tensors}
            tensors = {name: file.get_tensor(name) for name in set(first.values())}
            return {name: tensors[stored] for name, stored in first.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot be read: {error}", at=path) from error


def untie(named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor under its first name, and the other names: {other: first}."""
    tensors: dict[str, Tensor] = {}
    first: dict[object, str] = {}
    ties: dict[str, str] = {}
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"'{name}' is a {type(tensor).__name__} and no tensor",
                hint="keep it in a buffer, or out of state_dict()",
            )
        key = _place(tensor)
        # an empty tensor has no address of its own
        if held(tensor).numel() and first.setdefault(key, name) != name:
            ties[name] = first[key]
        else:
            tensors[name] = tensor
    return tensors, ties


def _place(tensor: Tensor) -> object:
    """Equal for two tensors that are one and the same."""
    here = held(tensor)
    return here.device, here.data_ptr(), here.shape, here.stride(), here.dtype


def load_into(
    model: nn.Module, path: Path, *, adopt_dtypes: bool = False, mapped: bool = False
) -> None:
    """Copy a file's tensors into a model's parameters and buffers, in place.

    Args:
        adopt_dtypes: give the parameters the file's dtypes; otherwise another dtype is an error.
        mapped: let parameters on the CPU be the file's own pages instead of copies: read when they
            are touched, shared with every process that maps them, and copied where they are
            altered, so that the file never is. The file may be deleted or replaced meanwhile, as
            lmkit does it, but not cut short.

    Raises:
        CheckpointError: names, shapes, ties or dtypes differ; the model is as before then.
    """
    stored = read_fitting(model, path, adopt_dtypes=adopt_dtypes)
    if mapped:
        _map(model, stored)
    if adopt_dtypes:
        _cast(model, stored)
    for name, tensor in untie(model.state_dict())[0].items():
        own, new = held(tensor), piece_of(stored[name], tensor)
        if own.data_ptr() != new.data_ptr():
            own.copy_(new)


def _map(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Put stored tensors in the place of the parameters that state_dict calls by their names."""
    parameters: dict[object, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.is_cpu and parameter.is_contiguous():
            parameters.setdefault(_place(parameter), []).append(parameter)
    for name, tensor in model.state_dict().items():
        for parameter in parameters.get(_place(tensor), ()):
            parameter.data = stored[name]


def read_fitting(model: nn.Module, path: Path, *, adopt_dtypes: bool = False) -> dict[str, Tensor]:
    """A file's tensors, if they are what `load_into` can copy; CheckpointError otherwise.

    Its header alone decides; a file that does not fit is not mapped.
    """
    header = read_header(path)
    own, stored = model.state_dict(), header.tensors
    problems = [
        *_other_names(own, stored),
        *_other_shapes(own, stored),
        *_other_ties(own, header),
        *([] if adopt_dtypes else _other_dtypes(own, stored)),
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint of another architecture: {'; '.join(problems)}",
            hint="build the model that its experiment.json names",
            at=path,
        )
    return _read(path, header)


def _other_names(own: Mapping[str, Tensor], stored: Mapping[str, Stored]) -> list[str]:
    missing = [name for name in own if name not in stored]
    unexpected = [name for name in stored if name not in own]
    return _count("missing in the checkpoint", missing) + _count("unknown to the model", unexpected)


def _count(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{', '.join(names[:3])}{more} {what}"]


def _other_shapes(own: Mapping[str, Tensor], stored: Mapping[str, Stored]) -> list[str]:
    return _first_three(
        f"{name} is {list(stored[name].shape)} there and {list(own[name].shape)} in the model"
        for name in own
        if name in stored and stored[name].shape != own[name].shape
    )


def _other_ties(own: Mapping[str, Tensor], header: Header) -> list[str]:
    here, there = _groups(untie(own)[1]), _groups(header.ties)
    return _first_three(
        f"{' and '.join(sorted(group))} are one tensor {'there' if group in there else 'here'} only"
        for group in here ^ there
        if group <= own.keys() & header.tensors.keys()
    )


def _groups(ties: Mapping[str, str]) -> set[frozenset[str]]:
    """The sets of names that stand for one tensor, of two names or more."""
    groups: dict[str, set[str]] = {}
    for other, name in ties.items():
        groups.setdefault(name, {name}).add(other)
    return {frozenset(group) for group in groups.values()}


def _other_dtypes(own: Mapping[str, Tensor], stored: Mapping[str, Stored]) -> list[str]:
    return _first_three(
        f"{name} is {_short(stored[name])} there and {_short(own[name])} in the model"
        for name in own
        if name in stored and stored[name].dtype != own[name].dtype
    )


def _short(tensor: Tensor | Stored) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first_three(problems: Iterable[str]) -> list[str]:
    found = list(problems)
    return found[:3] + ([f"and {len(found) - 3} more like it"] if len(found) > 3 else [])


def _cast(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers the stored dtypes; tied ones stay tied."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in stored:  # buffers that are not persistent are not
            tensor.data = tensor.data.to(stored[name].dtype)
