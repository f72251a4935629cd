"""state: whatever an optimizer remembers as tensors by name and JSON, no pickle; writes no file.

JSON forgets whether a list was a tuple, so every container says what it is:
`{"tuple": [0.9, 0.95]}`, `{"tensor": "0/head.weight/exp_avg", "shape": [...], "dtype": "float32"}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lmkit.errors import CheckpointError, ConfigError


def pack(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; every tensor in it goes into `tensors`, under `key` and its place.

    Raises:
        ConfigError: something that is no tensor, number, word or container of them.
    """
    if isinstance(value, Tensor):
        tensors[key] = value.detach().contiguous()
        return {"tensor": key, **form(value)}
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {"dict": {name: pack(v, f"{key}/{name}", tensors) for name, v in value.items()}}
    if isinstance(value, list | tuple):
        items = [pack(v, f"{key}/{i}", tensors) for i, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"an optimizer keeps {key}, of the class {type(value).__name__}: no checkpoint can hold it",
        hint="tensors, numbers, words, lists and dicts can be saved",
    )


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that `pack` was given, made of the very `tensors`, which are taken out.

    Raises:
        CheckpointError: a tensor is missing, or its shape or dtype is not the one noted.
    """
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        key = packed["tensor"]
        if key not in tensors:
            raise CheckpointError(f"the optimizers' state lacks {key}")
        check_form(key, tensors[key], packed)
        return tensors.pop(key)
    if "dict" in packed:
        return {name: unpack(value, tensors) for name, value in packed["dict"].items()}
    if "tuple" in packed:
        return tuple(unpack(value, tensors) for value in packed["tuple"])
    return [unpack(value, tensors) for value in packed["list"]]


def form(tensor: Tensor) -> dict[str, Any]:
    """Shape and dtype, as JSON."""
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def check_form(name: str, tensor: Tensor, noted: Mapping[str, Any]) -> None:
    """CheckpointError unless shape and dtype are the noted ones."""
    for what, value in form(tensor).items():
        if value != noted[what]:
            raise CheckpointError(f"{name} has {what} {value}, but {noted[what]} was saved")
