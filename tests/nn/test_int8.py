"""Weights of eight bits are as near as eight bits come, whatever number of rows reads them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lmkit.nn import int8
from lmkit.nn.int8 import Int8Linear, quantise


@given(st.integers(1, 8), st.integers(1, 40), st.floats(-20, 20), st.integers(0, 99))
def test_every_weight_is_within_half_a_step(rows: int, width: int, size: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator) * 2**size
    whole, scales = quantise(weight)
    assert (whole.dtype, scales.dtype) == (torch.int8, torch.bfloat16)
    assert whole.abs().amax(1).ge(126).all()  # all of the range is used
    steps = scales.float()[:, None]
    # the scale is rounded to 8 bits: of the largest weight a quarter of a step may be cut off
    assert ((weight - whole * steps).abs() <= 0.501 * steps).all()


def test_a_row_of_zeros_stays_one() -> None:
    whole, scales = quantise(torch.tensor([[0.0, 0.0], [1.0, -127.0]]))
    assert whole.tolist() == [[0, 0], [1, -127]]
    assert scales.tolist() == [0.0, 1.0]


def test_few_rows_and_many_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Int8Linear(nn.Linear(64, 48), torch.bfloat16)
    x = torch.randn(2 * int8.FEW_ROWS, 64).bfloat16()
    many = layer(x)
    monkeypatch.setattr(int8, "FEW_ROWS", len(x))
    few = layer(x)
    assert not torch.equal(few, many)  # another order of sums
    torch.testing.assert_close(few, many, rtol=0.02, atol=0.02)


def test_what_the_kernel_cannot_read_does_not_fit() -> None:
    fitting = [width for width in range(1, 100) if Int8Linear.fits(nn.Linear(width, 2))]
    assert fitting == [32, 64, 96]
