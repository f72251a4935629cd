"""losses: logits and targets in, a sum out; never a mean, and nothing of models or text.

B rows, T tokens a row, N tokens in all, C channels, V entries of the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True)
class Loss:
    """A sum and what to divide it by: `total / count` is nats a token.

    Attributes:
        total: scalar tensor, the weighted sum over tokens in nats.
        count: tokens with a weight other than zero.
        bytes: UTF-8 bytes of those tokens; special tokens have none.
    """

    total: Tensor
    count: int
    bytes: int


def token_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the cross-entropies, a scalar in float32 (float64 for float64 logits).

    logits (B, T, V), targets (B, T) int64, weights (B, T). The statistics are taken in float32
    whatever the dtype of the logits.
    """
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    losses = F.cross_entropy(wide.flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum()


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    softcap: float | None = None,
    vocab_size: int | None = None,
    chunk: int | None = None,
) -> Tensor:
    """`token_loss` of the logits `hidden @ weight.T` without ever holding all of them.

    The logits of `chunk` tokens at a time are made, turned into their own gradient and forgotten,
    so the memory is O(chunk x V) and the backward pass only scales what the forward pass found (the
    idea of Liger's fused linear cross-entropy, arXiv 2410.10989). The weight's gradient is summed
    in float32. Under autocast the matrix products run in its dtype and the statistics in float32:
    then within 1e-2 relative of the float32 result, otherwise within 1e-5 of the plain path.

    Args:
        hidden: (N, C), the last hidden states.
        weight: (V, C), the head.
        targets: (N,) int64, below `vocab_size`.
        weights: (N,), what each token counts; may require a gradient too.
        softcap: logits become `softcap * tanh(logits / softcap)` (Gemma 2, arXiv 2408.00118).
        vocab_size: columns from here on are padding and get no probability.
        chunk: tokens at a time; by default what keeps a chunk of logits in a CPU's cache or in some
            hundred MB of a GPU, under torch.compile at least a quarter of all.

    Returns:
        the weighted sum, a scalar in float32 (float64 for float64 input).
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    rows = chunk or _chunk_rows(kind, len(hidden), weight.shape[0])
    size = weight.shape[0] if vocab_size is None else vocab_size
    with_gradient = torch.is_grad_enabled()
    return _LinearCrossEntropy.apply(
        hidden, weight, targets, weights, softcap, size, rows, dtype, with_gradient
    )


def _chunk_rows(device: str, tokens: int, vocabulary: int) -> int:
    """Tokens whose logits are held at once."""
    if device == "cpu":
        # 4 MB of logits stay in the cache; but every chunk reads and writes the weight's gradient,
        # which at 50,000 x 768 takes half as long as the products of a chunk of 64.
        rows = max(256 if vocabulary <= 2**13 else 512, 2**20 // vocabulary)
    else:
        rows = max(512, 2**26 // vocabulary)  # 256 MB of float32 logits
    if torch.compiler.is_compiling():
        # the loop is unrolled: 16 chunks take inductor three times as long as 4
        rows = max(rows, math.ceil(tokens / 4))
    return rows


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor,
        softcap: float | None,
        vocab_size: int,
        rows: int,
        dtype: torch.dtype,
        with_gradient: bool,
    ) -> Tensor:
        wide = torch.promote_types(weight.dtype, torch.float32)
        losses = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        grad_hidden = torch.empty_like(hidden if with_gradient else hidden[:0])
        grad_weight = torch.zeros_like(weight if with_gradient else weight[:0], dtype=wide)
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(dtype)
            for start in range(0, len(hidden), rows):
                part = slice(start, start + rows)
                x = hidden[part].to(dtype)
                capped, slope = _cap((x @ head.T).to(wide), softcap)
                capped[:, vocab_size:] = -torch.inf
                log_p = torch.log_softmax(capped, dim=-1)
                at = targets[part, None]
                log_p_at = log_p.gather(1, at)
                losses[part] = -log_p_at[:, 0]
                if with_gradient:
                    # p - 1 at the target; expm1 is exact where p is nearly 1
                    grad = log_p.exp_().scatter_(1, at, log_p_at.expm1())
                    grad *= weights[part, None]
                    grad = (grad if slope is None else grad.mul_(slope)).to(dtype)
                    grad_hidden[part] = grad @ head
                    grad_weight += grad.T @ x
        ctx.save_for_backward(grad_hidden, grad_weight, losses)
        ctx.weight_dtype = weight.dtype
        return (losses * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, losses = ctx.saved_tensors
        grad_weight = (grad_weight * scale).to(ctx.weight_dtype)
        grad_hidden = grad_hidden * scale.to(grad_hidden.dtype)
        return grad_hidden, grad_weight, None, losses * scale, *[None] * 5


def _cap(logits: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """The capped logits, and the cap's derivative at each of them; `logits` is used up."""
    if softcap is None:
        return logits, None
    # tanh(x) = 2 sigmoid(2x) - 1: a million take 0.26 ms on a CPU, by torch's tanh 2.46
    shrunk = logits.mul_(2 / softcap).sigmoid_().mul_(2).sub_(1)
    return shrunk * softcap, shrunk.square_().neg_().add_(1)
