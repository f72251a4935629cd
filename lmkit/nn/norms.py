"""norms: RMSNorm without a gain, fast where torch's own is slow."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-6  # a smaller root mean square counts as this one


def rms_norm(x: Tensor) -> Tensor:
    """x / rms(x) along the last dimension, in x's dtype (Zhang and Sennrich, arXiv 1910.07467).

    A learned gain would be taken up by the matrix that follows. On the CPU, forward and backward of
    4096 x 256 in bf16 take 0.7 ms this way and 2.7 ms with F.rms_norm, whose backward is unfused.
    """
    with torch.autocast(x.device.type, enabled=False):  # it would take norms in float32
        if x.device.type == "cpu":
            return _RMSNorm.apply(x)
        return F.rms_norm(x, (x.shape[-1],), eps=EPS**2)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        size = x.shape[-1] ** 0.5
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # summed in float32
        wide = torch.promote_types(x.dtype, torch.float32)
        scale = (size / length.to(wide).clamp_min(EPS * size)).to(x.dtype)
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        along = (grad * y).sum(-1, keepdim=True)
        return torch.addcmul(grad, y, along, value=-1 / y.shape[-1]).mul_(scale)
