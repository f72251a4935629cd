"""recurrent: a language model of gated recurrent units; its memory is one vector a layer.

Sources: Cho et al. 2014, arXiv 1406.1078 (the GRU); Mikolov et al. 2010, "Recurrent neural network
based language model" (the use). Layers are joined as in a pre-norm transformer (residual stream,
LayerNorm), so that more than two of them still train.

A state runs on through a row, so GRULM takes no document ids: lmkit gives it one sample a row.

Shapes: B rows, T tokens, C width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lmkit.model import LMBase
from lmkit.nn import StateCache, activation_dtype


class GRULM(LMBase):
    """Recurrent layers; a generated token costs the same however long the text before it is.

    Args:
        vocab_size: rows of the embedding; None for the tokenizer's own number.
        width: channels of the residual stream and of each layer's state.
        layers: recurrent layers.
        dropout: after the embedding and on what each layer adds.
        max_len: tokens of a training row, and of a prompt's context.
    """

    def __init__(
        self,
        *,
        tokenizer: Any = None,
        vocab_size: int | None = None,
        width: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        max_len: int = 256,
        name: str | None = None,
    ) -> None:
        super().__init__(tokenizer=tokenizer, max_len=max_len, name=name)
        vocab_size = vocab_size or self.need_tokenizer().vocab_size
        self.embedding = nn.Embedding(vocab_size, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)

    def forward(self, tokens: Tensor, cache: StateCache | None = None) -> Tensor:
        """tokens (B, T) -> logits (B, T, V); with a cache each row's last ones, (B, 1, V)."""
        x = self.embedding(tokens)
        x = self.dropout(x).to(activation_dtype(x.device, x.dtype))
        for index, layer in enumerate(self.layers):
            x = layer(x, f"layer{index}", cache)
        return self.head(self.norm(x if cache is None else cache.last(x)))

    def make_cache(self, batch_size: int, length: int) -> StateCache:
        """The layers' states; `length` is not needed, for they do not grow."""
        return StateCache(batch_size, device=self.device)


class Layer(nn.Module):
    """x + GRU(norm(x)). One nn.GRU a layer, so that every place's state can be read off."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, name: str, cache: StateCache | None) -> Tensor:
        """x (B, T, C) -> (B, T, C); the state is taken from the cache and left there as `name`."""
        normed = self.norm(x)
        state = None if cache is None else cache.recall(name, like=normed[:, 0])[None]
        states, _ = self.gru(normed, state)  # (B, T, C)
        if cache is not None:
            cache.remember(name, states)
        return x + self.dropout(states)
