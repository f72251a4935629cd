"""weights: named tensors to a safetensors file and back, tied ones stored once; knows no folder.

safetensors refuses tensors that share memory, so of those that are one and the same the first name
is stored and the file's header says which other names stand for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lmkit.errors import CheckpointError

TIES = "ties"  # the header's key: JSON {other name: stored name}


def write_tensors(path: Path, named: Mapping[str, Tensor]) -> None:
    """Write tensors of any device; raises what safetensors raises when the disk refuses."""
    tensors, ties = untie(named)
    for name, tensor in tensors.items():
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        if not (whole and tensor.is_contiguous()):
            tensors[name] = tensor.clone(
                memory_format=torch.contiguous_format
            )  # a view of something
    save_file(tensors, path, metadata={TIES: json.dumps(ties)})
    # safetensors makes its files 0600: others of the group could not read the run
    path.chmod(path.parent.stat().st_mode & 0o666)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by every name they have, mapped into memory: read when touched.

    Raises:
        CheckpointError: the file is no safetensors file or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            ties = json.loads((file.metadata() or {}).get(TIES, "{}"))
            return tensors | {name: tensors[stored] for name, stored in ties.items()}
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
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
        # an empty tensor has no address of its own
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and first.setdefault(key, name) != name:
            ties[name] = first[key]
        else:
            tensors[name] = tensor
    return tensors, ties


def load_into(model: nn.Module, path: Path, *, adopt_dtypes: bool = False) -> None:
    """Copy a file's tensors into a model's parameters and buffers, in place.

    Args:
        adopt_dtypes: give the parameters the file's dtypes; otherwise another dtype is an error.

    Raises:
        CheckpointError: names, shapes, ties or dtypes differ; the model is as before then.
    """
    stored = read_fitting(model, path, adopt_dtypes=adopt_dtypes)
    if adopt_dtypes:
        _cast(model, stored)
    for name, tensor in untie(model.state_dict())[0].items():
        tensor.copy_(stored[name])


def read_fitting(model: nn.Module, path: Path, *, adopt_dtypes: bool = False) -> dict[str, Tensor]:
    """A file's tensors, if they are what `load_into` can copy; CheckpointError otherwise."""
    stored = read_tensors(path)
    own = model.state_dict()
    problems = [
        *_other_names(own, stored),
        *_other_shapes(own, stored),
        *_other_ties(own, stored),
        *([] if adopt_dtypes else _other_dtypes(own, stored)),
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint of another architecture: {'; '.join(problems)}",
            hint="build the model that its experiment.json names",
            at=path,
        )
    return stored


def _other_names(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in own if name not in stored]
    unexpected = [name for name in stored if name not in own]
    return _count("missing in the checkpoint", missing) + _count("unknown to the model", unexpected)


def _count(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{', '.join(names[:3])}{more} {what}"]


def _other_shapes(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    return _first_three(
        f"{name} is {list(stored[name].shape)} there and {list(own[name].shape)} in the model"
        for name in own
        if name in stored and stored[name].shape != own[name].shape
    )


def _other_ties(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    here, there = _groups(own), _groups(stored)
    return _first_three(
        f"{' and '.join(sorted(group))} are one tensor {'there' if group in there else 'here'} only"
        for group in here ^ there
        if group <= own.keys() & stored.keys()
    )


def _groups(named: Mapping[str, Tensor]) -> set[frozenset[str]]:
    """The sets of names that stand for one tensor, of two names or more."""
    groups: dict[str, set[str]] = {}
    for other, name in untie(named)[1].items():
        groups.setdefault(name, {name}).add(other)
    return {frozenset(group) for group in groups.values()}


def _other_dtypes(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    return _first_three(
        f"{name} is {_short(stored[name])} there and {_short(own[name])} in the model"
        for name in own
        if name in stored and stored[name].dtype != own[name].dtype
    )


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first_three(problems: Iterable[str]) -> list[str]:
    found = list(problems)
    return found[:3] + ([f"and {len(found) - 3} more like it"] if len(found) > 3 else [])


def _cast(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers the stored dtypes; tied ones stay tied."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in stored:  # buffers that are not persistent are not
            tensor.data = tensor.data.to(stored[name].dtype)
