"""rotary: positions as rotations of queries and keys; knows nothing of attention.

Shapes: B rows, T tokens, H heads, D head width. Source: Su et al., arXiv 2104.09864; the two halves
of a head are the two coordinates, as in GPT-NeoX and nanochat.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rotation(
    positions: Tensor, width: int, *, base: float = 10_000.0, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """What `rotate` needs, made once a forward: cosines and signed sines, (..., 1, T, D) each.

    positions: int64 (T,) or (B, T). width: D, even. base: wavelengths run from 2 pi to 2 pi base.
    The angles are taken in float32: at position 1000 bf16 would be off by whole radians.
    """
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device)
    angles = positions[..., None, :, None] * base ** (-steps / width)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat([cos, cos], -1), torch.cat([sin, -sin], -1)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """(B, H, T, D) of any strides -> the same, rotated, contiguous."""
    return _Rotate.apply(x, *turn)


class _Rotate(torch.autograd.Function):
    """A rotation's gradient is the rotation back; autograd would take twice the passes over x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([second, first], -1).mul_(sin).addcmul_(x, cos)
