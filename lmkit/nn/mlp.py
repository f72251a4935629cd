"""mlp: activations that torch lacks or takes too many passes for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)**2 (Primer, So et al., arXiv 2109.08668), in x's dtype under autocast too.

    `x.relu().square()` takes two passes more over the widest tensor of a transformer.
    """
    return _ReLUSquared.apply(x)


class _ReLUSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (grad * positive).mul_(2)
