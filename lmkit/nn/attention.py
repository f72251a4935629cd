"""attention: queries over keys and values; knows nothing of projections, positions or layers.

Shapes: B rows, H query heads, Hkv key/value heads (H is a multiple of Hkv), T queries, S keys,
D head width. Every path honours every mask: documents, windows, caches with uneven rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask

from lmkit.nn import flex

# CPU, forward and backward of 4096 tokens x 2 heads x 128, one thread, `_Blocked` against SDPA:
# bf16 3.9x as fast at T = 256 and 512, 2.9x at 1024, 2.3x at 2048; fp32 1.5x, 1.6x, 1.4x, 1.2x.
# Beyond that the weights it keeps for its backward (T * T / 2 a head) cost too much memory.
BLOCKED_UP_TO = 2048
BLOCK = 128  # queries at a time; 64 and 256 are 5-20 % slower at some lengths


class Block(NamedTuple):
    """Queries start..stop, the keys first..last that any of them may see, and what to add to their
    scores: 0 or -inf, (B or 1, 1, stop - start, last - first); None where all may be seen."""

    start: int
    stop: int
    first: int
    last: int
    bias: Tensor | None


class Rule(NamedTuple):
    """What a causal mask follows from, beside its window: T, where it is, documents (B, T)."""

    length: int
    device: torch.device | str | None
    documents: Tensor | None


class Mask:
    """Which keys each query may see. Make one a forward, not one a layer.

    Args:
        allowed: bool (B or 1, 1, T, S), True where a query may look. None for the two plain cases:
            the triangle, and everything.
        triangular: T == S and no query may see what comes after it.
        window: a query of a triangular mask sees at most so many keys, itself included. Says again
            what `allowed` holds, so that whole blocks of keys can be left out.
    """

    def __init__(
        self, allowed: Tensor | None = None, triangular: bool = False, window: int | None = None
    ) -> None:
        self._allowed = allowed
        self.triangular = triangular
        self.window = window
        self._rule: Rule | None = None
        self._blocks: dict[torch.dtype, list[Block]] = {}
        self._block_mask: BlockMask | None = None

    @classmethod
    def causal(
        cls,
        length: int,
        device: torch.device | str | None = None,
        documents: Tensor | None = None,
        window: int | None = None,
    ) -> Mask:
        """Each of `length` tokens sees itself and the ones before it.

        documents: (B, T) ids; a token sees only tokens of its own id.
        window: how many keys a query sees, itself included; None for all.
        """
        if window is not None and window >= length:
            window = None
        mask = cls(triangular=True, window=window)
        if documents is not None or window is not None:
            mask._rule = Rule(length, device, documents)
        return mask

    @classmethod
    def at(cls, positions: Tensor, keys: Tensor, window: int | None = None) -> Mask:
        """Queries at `positions` (B or 1, T) over keys at the positions `keys` (S,)."""
        return cls(_in_reach(positions, keys, window))

    @classmethod
    def all(cls) -> Mask:
        """Every query sees every key: one new token over a cache."""
        return cls()

    @property
    def allowed(self) -> Tensor | None:
        """As given; of a rule written out when it is first asked for, since a block mask can do
        without its T x T entries."""
        if self._allowed is None and self._rule is not None:
            length, device, documents = self._rule
            positions = torch.arange(length, device=device)
            self._allowed = _in_reach(positions[None], positions, self.window)
            if documents is not None:
                same = documents[:, None, :, None] == documents[:, None, None, :]
                self._allowed = self._allowed & same
        return self._allowed

    @property
    def has_rule(self) -> bool:
        """Whether there is a `block_mask`: of documents or windows, not of any other `allowed`."""
        return self._rule is not None

    def block_mask(self, device: torch.device) -> BlockMask:
        """The rule as FlexAttention reads it, for queries on `device`; made once."""
        assert self._rule is not None
        if self._block_mask is None:
            length, _, documents = self._rule
            self._block_mask = flex.make_block_mask(length, device, documents, self.window)
        return self._block_mask

    def tensor(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """`allowed` with the triangle written out; None when everything may be seen."""
        if self.allowed is None and self.triangular:
            return torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device).tril()
        return self.allowed

    def blocks(self, queries: int, keys: int, like: Tensor) -> list[Block]:
        """The mask cut into blocks of queries, with biases in the dtype of `like`."""
        if like.dtype not in self._blocks:
            starts = range(0, queries, BLOCK)
            self._blocks[like.dtype] = [self._block(a, queries, keys, like) for a in starts]
        return self._blocks[like.dtype]

    def _block(self, start: int, queries: int, keys: int, like: Tensor) -> Block:
        stop = min(start + BLOCK, queries)
        first = 0 if self.window is None else max(0, start + 1 - self.window)
        last = stop if self.triangular else keys
        if self.allowed is not None:
            allowed = self.allowed[:, :, start:stop, first:last]
        elif self.triangular:
            allowed = torch.ones(1, 1, stop - start, last, dtype=torch.bool, device=like.device)
            allowed = allowed.tril(start)
        else:
            return Block(start, stop, first, last, None)
        bias = torch.zeros(allowed.shape, dtype=like.dtype, device=like.device)
        return Block(start, stop, first, last, bias.masked_fill_(~allowed, -torch.inf))


def _in_reach(positions: Tensor, keys: Tensor, window: int | None) -> Tensor:
    distance = positions[:, None, :, None] - keys
    in_reach = distance >= 0
    return in_reach if window is None else in_reach & (distance < window)


def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, scale: float | None = None) -> Tensor:
    """Softmax attention by the fastest path for this device, dtype and length.

    q (B, H, T, D); k, v (B, Hkv, S, D); each group of H / Hkv query heads shares one key head.
    scale multiplies the scores, D**-0.5 by default. The arithmetic is done in the dtype of v, under
    autocast too: it would copy the CPU's float32 cache at every step. Returns (B, H, T, D) in the
    dtype of q.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast(q.device.type, enabled=False):
        queries, k = q.to(v.dtype), k.to(v.dtype)
        if q.device.type == "cpu" and q.shape[2] > 1 and k.shape[2] <= BLOCKED_UP_TO:
            blocks = mask.blocks(q.shape[2], k.shape[2], v)
            return _Blocked.apply(queries, k, v, blocks, scale).to(q.dtype)
        if mask.has_rule and flex.suits(queries, v):
            return flex.attend(queries, k, v, mask.block_mask(q.device), scale).to(q.dtype)
        return _sdpa(queries, k, v, mask, scale).to(q.dtype)


def attend_reference(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, scale: float | None = None
) -> Tensor:
    """What `attend` means, in float32 and without a short cut; the tests hold the two together."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q.float() @ k.float().mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    allowed = mask.tensor(q.shape[2], k.shape[2], q.device)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return (scores.softmax(-1) @ v.float()).to(q.dtype)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask.allowed,
        is_causal=mask.triangular and mask.allowed is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


class _Blocked(torch.autograd.Function):
    """Matmul, softmax, matmul, a block of queries at a time over the keys that it may see.

    N = B * Hkv; the query heads of a group lie one under the other, as queries of one key head.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: list[Block], scale: float
    ) -> Tensor:
        batch, heads, queries, width = q.shape
        grouped = q.reshape(batch * k.shape[1], -1, queries, width)  # (N, H / Hkv, T, D)
        keys, values = k.flatten(0, 1), v.flatten(0, 1)  # (N, S, D)
        out = q.new_empty(batch, queries, heads, width).transpose(1, 2)  # as a projection reads it
        kept = []
        for start, stop, first, last, bias in blocks:
            rows = grouped[:, :, start:stop].flatten(1, 2)
            scores = _scaled(rows, keys[:, first:last].mT, scale)
            if bias is not None:
                scores.view(batch, heads, stop - start, last - first).add_(bias)
            weights = scores.softmax(-1)
            mixed = weights @ values[:, first:last]
            out[:, :, start:stop] = mixed.view(batch, heads, stop - start, width)
            kept.append(weights)
        ctx.save_for_backward(grouped, keys, values, *kept)
        ctx.blocks, ctx.scale, ctx.shape = blocks, scale, (q.shape, k.shape)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grouped, keys, values, *kept = ctx.saved_tensors
        grad = grad.reshape(grouped.shape)
        grad_q = torch.empty_like(grouped)
        grad_k, grad_v = torch.zeros_like(keys), torch.zeros_like(values)
        for (start, stop, first, last, _), weights in zip(ctx.blocks, kept, strict=True):
            rows, g = (x[:, :, start:stop].flatten(1, 2) for x in (grouped, grad))
            seen = slice(first, last)
            grad_v[:, seen] += weights.mT @ g
            g = g @ values[:, seen].mT
            g = torch.ops.aten._softmax_backward_data(g, weights, -1, g.dtype)
            grad_k[:, seen] += _scaled(g.mT, rows, ctx.scale)
            grad_rows = _scaled(g, keys[:, seen], ctx.scale)
            grad_q[:, :, start:stop] = grad_rows.unflatten(1, (-1, stop - start))
        q_shape, k_shape = ctx.shape
        return grad_q.view(q_shape), grad_k.view(k_shape), grad_v.view(k_shape), None, None


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale * (a @ b) in one pass; with beta = 0 the first argument is not read."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)
