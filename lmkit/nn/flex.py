"""flex: attention on CUDA that skips what documents and windows hide; knows nothing of layers.

FlexAttention (Dong et al. 2024, arXiv 2412.05496) compiles one kernel from the rule of who sees
whom. A block mask, made once a forward, says which blocks of 128 x 128 scores the kernel visits;
SDPA would read a mask of T x T entries a row, and compute all scores.

Shapes: B rows, T tokens, H query heads, Hkv key/value heads, D head width.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

logger = logging.getLogger(__name__)

SHORTEST = 256  # tokens; in fewer than two blocks there is hardly anything to skip
NARROWEST, WIDEST = 16, 256  # head widths that the kernel is made for
DTYPES = (torch.bfloat16, torch.float16)  # wide heads in float32 outgrow an SM's shared memory


def suits(q: Tensor, v: Tensor) -> bool:
    """Whether queries (B, H, T, D) and values (B, Hkv, T, D) are better attended to here."""
    return (
        q.device.type == "cuda"
        and v.dtype in DTYPES
        and q.shape[2] == v.shape[2] >= SHORTEST
        and all(NARROWEST <= x.shape[3] <= WIDEST for x in (q, v))
        and (torch.compiler.is_compiling() or _has_compiler())
    )


def make_block_mask(
    length: int, device: torch.device, documents: Tensor | None, window: int | None
) -> BlockMask:
    """Each of `length` tokens sees itself and those before it, at most `window` in all, and of
    documents (B, T) those of its own number only."""
    # a tensor, not an int: another window is then no other kernel
    reach = None if window is None else torch.full((), window, device=device)

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query >= key
        if reach is not None:
            seen = seen & (query - key < reach)
        if documents is not None:
            seen = seen & (documents[b, query] == documents[b, key])
        return seen

    rows = None if documents is None else len(documents)
    _, create = _kernels(device)
    return create(sees, rows, None, length, length, device=device)


def attend(q: Tensor, k: Tensor, v: Tensor, block_mask: BlockMask, scale: float) -> Tensor:
    """q (B, H, T, D), k and v (B, Hkv, T, D) of one dtype -> (B, H, T, D)."""
    kernel, _ = _kernels(q.device)
    grouped = q.shape[1] != k.shape[1]
    return kernel(q, k, v, block_mask=block_mask, scale=scale, enable_gqa=grouped)


def _kernels(device: torch.device) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """torch's two functions: compiled on CUDA, unless the caller is being compiled already."""
    if device.type != "cuda" or torch.compiler.is_compiling():
        return flex_attention, create_block_mask
    return _compiled()


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    # a kernel for the first length, and one for all others
    return torch.compile(flex_attention), torch.compile(create_block_mask)


@cache
def _has_compiler() -> bool:
    """Whether Triton is installed, and the C compiler with which it builds what starts a kernel."""
    compilers = [os.environ.get("CC", "cc"), "gcc", "clang"]
    if find_spec("triton") is not None and any(map(shutil.which, compilers)):
        return True
    logger.warning("FlexAttention needs triton and a C compiler: SDPA does its work, more slowly")
    return False
