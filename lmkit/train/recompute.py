"""recompute: activations dropped after a block and made again in its backward; knows no runner.

Chen et al. 2016, arXiv 1604.06174. Memory falls from all activations of all blocks to the input of
each and all of one; a step does the blocks' forward twice, a quarter more work.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lmkit.errors import ModelError
from lmkit.model import LMBase


def recompute_blocks(model: LMBase) -> int:
    """Have every block of `model` recompute its activations from now on; gives their number.

    A block is an element of an nn.ModuleList with layers of its own. Gradients stay what they
    were, to the bit where the arithmetic repeats: random numbers and autocast are as they were.
    Without gradients nothing changes. A copy of the model does the same with its own blocks.

    Raises:
        ModelError: there is no such list.
    """
    blocks = list(outermost_blocks(model))
    for block in blocks:
        # bound, so that a deep copy of the model gets its own block and not this one
        block.forward = MethodType(_recomputing, block)
    if not blocks:
        raise ModelError(
            f"{type(model).__name__} has no nn.ModuleList of blocks whose activations could be "
            "recomputed",
            hint="put its blocks into one, or leave out activation_checkpointing",
        )
    return len(blocks)


def recompute_compiled() -> None:
    """Have torch.compile take blocks that recompute into its graph although their forward keeps
    something, such as a mask that all share: what it keeps is not made again in backward."""
    import torch._dynamo

    torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True


def _recomputing(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = type(block).forward
    if not torch.is_grad_enabled():
        return forward(block, *args, **kwargs)
    return checkpoint(forward, block, *args, use_reentrant=False, **kwargs)


def outermost_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a model that are in no other block; what is inside one goes with it."""
    for child in module.children():
        listed = isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList)
        # a layer alone would be computed twice for nothing: its input is kept anyway
        if listed and any(child.children()):
            yield child
        else:
            yield from outermost_blocks(child)
