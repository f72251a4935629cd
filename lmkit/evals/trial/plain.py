"""plain: what the two processes of a trial tell each other, and how they run a source."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Any


def encode(value: Any) -> Any:
    """Plain data as JSON can hold it; what is not of these kinds goes as the nearest of them.

    A subclass goes as its base (a Counter as a dict), any other number as an int or a float, any
    other iterable as an iterator, which can be read but equals nothing.

    Raises:
        TypeError: it is none of these.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for kind in ("list", "tuple", "set", "frozenset"):
        if isinstance(value, getattr(builtins, kind)):
            return [kind, [encode(item) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(key), encode(item)] for key, item in value.items()]]
    if isinstance(value, bytes | bytearray):
        return ["bytes", value.hex()]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, Iterable):
        return ["iter", [encode(item) for item in value]]
    try:
        whole = int(value)
        return whole if whole == value else float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"a {type(value).__name__} is no plain data") from error


def decode(data: Any) -> Any:
    """What `encode` was given."""
    if not isinstance(data, list):
        return data
    kind, content = data
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(*content)
    if kind not in ("list", "tuple", "set", "frozenset", "iter"):
        raise ValueError(kind)
    return getattr(builtins, kind)([decode(item) for item in content])


def run_source(source: str, name: str, namespace: dict[str, Any]) -> None:
    """Run it; the `random` that it may use draws the same numbers every time."""
    if "random" in source:  # its import takes 8 ms
        import random

        random.seed(0)
    exec(compile(source, name, "exec"), namespace)


def line_of(error: BaseException) -> str:
    """`TypeError: what it says`, at most 200 characters of one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    said = " ".join(text.split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def last_line(error: BaseException, name: str) -> int:
    """The innermost line of that source which the exception went through; 0 if there is none."""
    if isinstance(error, SyntaxError) and error.filename == name:
        return error.lineno or 0
    number, frame = 0, error.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename == name:
            number = frame.tb_lineno
        frame = frame.tb_next
    return number
