"""mlp: a language model of dense layers over a fixed window of tokens; no attention, no state.

Source: Bengio et al. 2003, "A Neural Probabilistic Language Model" (JMLR 3): the embeddings of the
last tokens, side by side, go through dense layers to the next token's logits. GELU in place of tanh
and more than one layer are the additions. With so short a memory recomputing is cheap: no cache.

Shapes: B rows, T tokens, E embedding_dim, W window, N nodes, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lmkit.model import LMBase


class MLP(LMBase):
    """Dense layers over the last `window` tokens.

    Args:
        vocab_size: rows of the embedding; None for the tokenizer's own number.
        embedding_dim: numbers a token.
        window: tokens that a prediction sees, the newest included.
        nodes: width of each hidden layer.
        layers: hidden layers.
        dropout: after each hidden layer.
        max_len: tokens of a training row, and of a prompt's context.
    """

    def __init__(
        self,
        *,
        tokenizer: Any = None,
        vocab_size: int | None = None,
        embedding_dim: int = 64,
        window: int = 16,
        nodes: int = 512,
        layers: int = 2,
        dropout: float = 0.0,
        max_len: int = 256,
        name: str | None = None,
    ) -> None:
        super().__init__(tokenizer=tokenizer, max_len=max_len, name=name)
        vocab_size = vocab_size or self.need_tokenizer().vocab_size
        self.window = window
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        widths = [window * embedding_dim] + [nodes] * layers
        self.hidden = nn.ModuleList(
            nn.Linear(*pair) for pair in zip(widths, widths[1:], strict=False)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], vocab_size)

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """tokens (B, T) -> logits (B, T, V); a token sees only its own document."""
        x = self.windows(self.embedding(tokens), documents)
        for layer in self.hidden:
            x = self.dropout(F.gelu(layer(x)))
        return self.head(x)

    def windows(self, x: Tensor, documents: Tensor | None) -> Tensor:
        """(B, T, E) -> (B, T, E * W): each token beside the ones before it, zeros where none is."""
        before = self.window - 1
        frames = F.pad(x, (0, 0, before, 0)).unfold(1, self.window, 1)  # (B, T, E, W)
        if documents is not None:
            owners = F.pad(documents, (before, 0)).unfold(1, self.window, 1)  # (B, T, W)
            frames = frames * (owners == documents[..., None])[:, :, None]
        return frames.flatten(2)
