"""float8: the products of linear layers in 8 bits, while training; weights stay what they are.

Inputs and weights are e4m3 (3 bits of mantissa), gradients e5m2 (more range), each tensor with one
scale from its greatest entry at that moment (Micikevicius et al. 2022, arXiv 2209.05433). Hopper
multiplies them twice as fast as bf16, but quantising costs passes over memory: it is for wide
models, compiled. nanochat found it worth while from depth 24 (width 1,536) on, and measured 1.17
times the tokens a second at depth 26.

Shapes: M tokens, K channels in, N channels out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # the hardware asks for it in every dimension; tokens are filled up to one
SMALLEST = 1e-30  # stands for the greatest entry of a tensor of zeros


def use_float8(model: nn.Module) -> int:
    """Have the linear layers of a model's blocks train in 8 bits; gives back how many do.

    Blocks are what stands in an nn.ModuleList, so embeddings and head are none. A subclass of
    nn.Linear stays what it is, and so does a layer with a dimension that is no multiple of 16. Only
    the class of a layer changes: its parameters, and the names in a state_dict, do not.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inside = {module for blocks in lists for module in blocks.modules()}
    for module in inside:
        if type(module) is nn.Linear and not any(n % MULTIPLE for n in module.weight.shape):
            module.__class__ = Float8Linear  # not a new forward, which a deepcopy would share
    return sum(isinstance(module, Float8Linear) for module in inside)


class Float8Linear(nn.Linear):
    """An nn.Linear whose products are in 8 bits where a gradient is asked for under autocast.

    Anywhere else (evaluation, generation, a loop without autocast) it is an nn.Linear.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (..., K) -> (..., N), in the dtype of autocast."""
        kind = x.device.type
        if not (torch.is_grad_enabled() and torch.is_autocast_enabled(kind)):
            return F.linear(x, self.weight, self.bias)
        dtype = torch.get_autocast_dtype(kind)
        rows = x.reshape(-1, x.shape[-1])
        padded = F.pad(rows, (0, 0, 0, -len(rows) % MULTIPLE))
        y = _Float8Product.apply(padded, self.weight, dtype)[: len(rows)]
        y = y.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(dtype)


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x as `dtype` and the scale that it is to be multiplied by, a float32 scalar."""
    greatest = x.abs().amax().float().clamp_min(SMALLEST)
    scale = greatest / torch.finfo(dtype).max
    return (x / scale).to(dtype), scale


class _Float8Product(torch.autograd.Function):
    """x (M, K), weight (N, K) -> x @ weight.T in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        x8, x_scale = quantise(x, E4M3)
        weight8, weight_scale = quantise(weight, E4M3)
        ctx.save_for_backward(x8, x_scale, weight8, weight_scale)
        ctx.dtypes = x.dtype, weight.dtype
        return _product(x8, weight8.t(), x_scale, weight_scale, dtype, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x8, x_scale, weight8, weight_scale = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        grad8, scale = quantise(grad, E5M2)
        grad_x = _product(grad8, _by_columns(weight8), scale, weight_scale, x_dtype)
        grad_rows = grad8.t().contiguous()
        grad_weight = _product(grad_rows, _by_columns(x8), scale, x_scale, weight_dtype)
        return grad_x, grad_weight, None


def _product(
    a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, dtype: torch.dtype, fast: bool = False
) -> Tensor:
    """a, row after row, times b, column after column: the only order that the hardware knows.

    fast: sum in the tensor cores' own precision, which is enough forwards but not for gradients.
    """
    return torch._scaled_mm(
        a, b, scale_a=a_scale, scale_b=b_scale, out_dtype=dtype, use_fast_accum=fast
    )


def _by_columns(x: Tensor) -> Tensor:
    return x.t().contiguous().t()
