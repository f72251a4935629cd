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
        checksum: of the rows, as `Batch.checksum` has it; 0 where it was not asked for.
    """

    total: Tensor
    count: int
    bytes: int
    checksum: int = 0


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
        chunk: tokens at a time; by default 1024 on a CPU and what makes some hundred MB of logits
            on a GPU, under torch.compile at least a quarter of all.

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
    # on a CPU long enough that the weight's gradient, which every chunk reads and writes, does not
    # count; elsewhere 128 MB of logits in bf16
    rows = 1024 if device == "cpu" else max(512, 2**26 // vocabulary)
    if torch.compiler.is_compiling():
        # the loop is unrolled: 16 chunks take inductor three times as long as 4
        rows = max(rows, math.ceil(tokens / 4))
    return rows


def _slice_rows(device: str, vocabulary: int, rows: int) -> int:
    """Tokens whose logits are turned into a gradient at once."""
    if device != "cpu" or torch.compiler.is_compiling():
        return rows
    return max(16, 2**20 // vocabulary)  # 4 MB in float32, which stay in the cache


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
        lines = _slice_rows(hidden.device.type, len(weight), rows)
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(dtype)
            for chunk in _slices(0, len(hidden), rows):
                x = hidden[chunk].to(dtype)
                logits = x @ head.T
                for part in _slices(chunk.start, chunk.stop, lines):
                    held = logits[part.start - chunk.start : part.stop - chunk.start]
                    losses[part], grad = _loss_and_gradient(
                        held.to(wide), targets[part, None], weights[part, None], softcap, vocab_size
                    )
                    if with_gradient:
                        held.copy_(grad)  # the logits' place is free now
                if with_gradient:
                    grad_hidden[chunk] = logits @ head
                    grad_weight += logits.T @ x
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


def _slices(start: int, stop: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, stop)) for at in range(start, stop, size)]


def _loss_and_gradient(
    logits: Tensor, targets: Tensor, weights: Tensor, softcap: float | None, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Each row's cross-entropy (N,), and what its weighted sum changes with each logit (N, V).

    logits (N, V) are used up; targets and weights are (N, 1).
    """
    share = None
    if softcap is not None:
        # c tanh(z / c) = 2 c s - c with s = sigmoid(2 z / c), and softmax does not see the -c; a
        # million sigmoids take 0.26 ms on a CPU, by torch's tanh 2.46
        share = logits.mul_(2 / softcap).sigmoid_()
        logits = share * (2 * softcap)
    logits[:, vocab_size:] = -torch.inf
    p = torch.softmax(logits, dim=-1)
    # log(sum of exponentials) from the likeliest entry, whose p is 1 / V at least: what torch takes
    # for softmax is half of what it takes for log_softmax and exp
    greatest = logits.amax(dim=-1, keepdim=True) - p.amax(dim=-1, keepdim=True).log()
    losses = greatest - logits.gather(1, targets)
    # p - 1 at the target; expm1 is exact where p is nearly 1
    p.scatter_(1, targets, losses.neg().expm1())
    if share is not None:
        p.mul_(torch.addcmul(share, share, share, value=-1))  # the cap's slope, a quarter of it
        weights = 4 * weights
    return losses[:, 0], p.mul_(weights)
