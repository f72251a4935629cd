"""my_model: a language model without attention or recurrence, of a shape that lmkit never saw.

A block lets every channel look back at a few tokens (a causal depthwise convolution) and lets the
token itself decide, through a gate, how much of what was found it takes. The steps back grow with
depth, 1, 4, 16, 64 tokens, so that four blocks of four taps see 256 tokens (WaveNet, van den Oord
et al., arXiv 1609.03499; the gate as in gMLP, Liu et al., arXiv 2105.08050).

Only `__init__` and `forward(tokens)` are written; all else, training and generation included, is
inherited. Shapes: B rows, T tokens, C width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lmkit import LMBase


class ConvMixer(LMBase):
    """Gated causal convolutions.

    Args:
        width: channels.
        layers: blocks; together they see taps ** layers tokens.
        taps: tokens that a block's convolution sees.
    """

    def __init__(self, tokenizer, width: int = 128, layers: int = 4, taps: int = 4):
        super().__init__(tokenizer=tokenizer, max_len=taps**layers)
        self.embedding = nn.Embedding(tokenizer.vocab_size, width)
        self.blocks = nn.Sequential(*[Block(width, taps, taps**i) for i in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokenizer.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> logits (B, T, vocabulary)."""
        return self.head(self.norm(self.blocks(self.embedding(tokens))))


class Block(nn.Module):
    """x + out(gate * look_back(value)), gate and value made of a normalised x."""

    def __init__(self, width: int, taps: int, step: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.look_back = nn.Conv1d(2 * width, 2 * width, taps, dilation=step, groups=2 * width)
        self.out = nn.Linear(2 * width, width)
        self.before = (taps - 1) * step  # zeros stand where there is no token yet

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        gate, value = self.expand(self.norm(x)).chunk(2, dim=-1)
        past = F.pad(value.transpose(1, 2), (self.before, 0))  # (B, 2C, before + T)
        return x + self.out(F.silu(gate) * self.look_back(past).transpose(1, 2))
