"""types: one plain value becomes what an annotation asks for, or an error says what is due.

Knows numbers, words, lists and mappings; ``signature`` adds what has a signature of its own.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

NUMBER = r"[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][-+]?\d{1,3})?"

_NUMBER = re.compile(f"({NUMBER})([kKMBT]?)", re.ASCII)
_SUFFIX = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_INT_LIMIT = 2**63  # what a tensor, a shape or a JSON reader can hold
_FLOAT_LIMIT = 10**308


class Unfit(Exception):
    """The value is not what is due; says what is, and how to write it."""

    def __init__(self, due: str, hint: str = "") -> None:
        super().__init__(due)
        self.due = due
        self.hint = hint


def to_int(value: Any) -> int:
    """3, ``4k``, ``2M``, ``1_000_000``, ``3e4``; never a bool or a fraction."""
    hint = "like 4, 2_000 or 2M"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INT_LIMIT:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    number = read_number(value) if isinstance(value, str) else None
    if number is None or abs(number) >= _INT_LIMIT or number != int(number):
        raise Unfit("an integer", hint)
    return int(number)


def to_float(value: Any) -> float:
    """1, 0.5, ``3e-4``, ``2M``; never a bool, an infinity or a NaN."""
    hint = "like 0.5, 3e-4 or 2M"
    number = read_number(value) if isinstance(value, str) else value
    if not isinstance(number, int | float | Decimal) or isinstance(number, bool):
        raise Unfit("a number", hint)
    if not -_FLOAT_LIMIT < number < _FLOAT_LIMIT:  # NaN is not within them either
        raise Unfit("a finite number", hint)
    return float(number)


def to_bool(value: Any) -> bool:
    """true or false, yes or no, on or off; never a number."""
    if isinstance(value, bool):
        return value
    word = value.lower() if isinstance(value, str) else ""
    if word not in _TRUE + _FALSE:
        raise Unfit("true or false")
    return word in _TRUE


def to_str(value: Any) -> str:
    """A string; a number or a bool is refused, for YAML has lost how it was written."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        raise Unfit("a string", "put it in quotes")
    raise Unfit("a string")


def to_path(value: Any) -> Path:
    """A path, from a string."""
    return value if isinstance(value, Path) else Path(to_str(value))


def read_number(text: str) -> Decimal | None:
    """The number that a text spells, decimal suffixes k, M, B and T included, or None."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None or len(text) > 40:
        return None
    return Decimal(match[1].replace("_", "")) * _SUFFIX[match[2]]


SCALARS = {int: to_int, float: to_float, bool: to_bool, str: to_str, Path: to_path}
