"""types: what spells a number, a bool, a string, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.config.types import Unfit, to_bool, to_float, to_int, to_str


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (5, 5), ("5", 5), ("-5", -5), ("2M", 2_000_000), ("4k", 4000), ("4K", 4000),
        ("1.5B", 1_500_000_000), ("1_000_000", 1_000_000), ("3e4", 30_000), (3e4, 30_000),
        (2.0, 2), ("0.5k", 500), ("1T", 10**12),
    ],
)  # fmt: skip
def test_integers(written: Any, value: int) -> None:
    assert to_int(written) == value
    assert type(to_int(written)) is int


@pytest.mark.parametrize(
    "written",
    [True, False, None, 1.5, "1.5", "x", "", "1e-3", "2 M", "2m", "0x10", "1:30", "٣"]
    + [10**30, "1e999999999", float("nan"), float("inf"), [], {}, "9" * 5000],
)
def test_not_integers(written: Any) -> None:
    with pytest.raises(Unfit, match="an integer"):
        to_int(written)


@pytest.mark.parametrize(
    ("written", "value"),
    [(1, 1.0), (0.5, 0.5), ("3e-4", 3e-4), ("1E+3", 1000.0), (".5", 0.5), ("2M", 2e6), ("-1.", -1)],
)
def test_floats(written: Any, value: float) -> None:
    assert to_float(written) == value
    assert type(to_float(written)) is float


@pytest.mark.parametrize(
    "written", [True, "nan", "inf", float("nan"), float("inf"), 10**400, "1e999", None, "e3", [1]]
)
def test_not_floats(written: Any) -> None:
    with pytest.raises(Unfit, match="number"):
        to_float(written)


def test_bools_are_words_and_never_numbers() -> None:
    assert [to_bool(word) for word in (True, "yes", "On", "TRUE")] == [True] * 4
    assert [to_bool(word) for word in (False, "no", "off", "False")] == [False] * 4
    for wrong in (0, 1, 1.0, "1", "y", None, ""):
        with pytest.raises(Unfit, match="true or false"):
            to_bool(wrong)


def test_a_number_is_not_a_string() -> None:
    assert to_str("5") == "5"
    for wrong in (5, 0.5, False):
        with pytest.raises(Unfit) as caught:
            to_str(wrong)
        assert caught.value.hint == "put it in quotes"


@given(st.integers(-(2**62), 2**62), st.floats(-1e300, 1e300))
@settings(max_examples=50)
def test_what_python_writes_is_read_back(integer: int, real: float) -> None:
    assert to_int(f"{integer:_}") == integer
    assert to_float(repr(real)) == real
