"""gpt2: the classic transformer language model, every measure of it an argument.

Pre-norm blocks of causal attention and a GELU MLP, LayerNorm, learned positions.

Sources: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (the model, its
initialisation: normal 0.02, projections into the residual stream divided by sqrt(2 layers));
nanoGPT (github.com/karpathy/nanoGPT, the 124M settings, biases as a choice); Press and Wolf 2017,
arXiv 1608.05859 (tied head); Glorot and Bengio 2010 and He et al. 2015 (the other initialisations).

Shapes: B rows, T tokens, C embedding_dim, H heads, D = C / H, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmkit.errors import ModelError
from lmkit.model import Batch, LMBase, Loss, linear_cross_entropy
from lmkit.nn import KVCache, Mask, activation_dtype, attend

Init = Literal["gpt2", "xavier", "kaiming"]


class GPT2(LMBase):
    """GPT-2; the defaults are its 124M size.

    Args:
        vocab_size: rows of the embedding; None for the tokenizer's own number.
        embedding_dim: channels of the residual stream.
        layers: transformer blocks.
        heads: attention heads; they share embedding_dim among them.
        intermediate_size: width of the MLP; None for 4 * embedding_dim.
        dropout: after the embeddings and on what each block adds (not on attention weights).
        max_len: tokens of context, and learned positions.
        bias: biases in the linear layers and the LayerNorms.
        tied: the head shares the embedding's weight.
        init: gpt2 (normal, std 0.02), xavier or kaiming (both uniform).

    Raises:
        ModelError: heads that do not divide embedding_dim, neither a tokenizer nor a vocab_size, or
            more tokens than max_len.
    """

    def __init__(
        self,
        *,
        tokenizer: Any = None,
        vocab_size: int | None = None,
        embedding_dim: int = 768,
        layers: int = 12,
        heads: int = 12,
        intermediate_size: int | None = None,
        dropout: float = 0.0,
        max_len: int = 1024,
        bias: bool = True,
        tied: bool = True,
        init: Init = "gpt2",
        name: str | None = None,
    ) -> None:
        super().__init__(tokenizer=tokenizer, max_len=max_len, name=name)
        if embedding_dim % heads:
            raise ModelError(
                f"embedding_dim {embedding_dim} is no multiple of heads {heads}",
                hint=f"try heads: {_nearest_divisor(embedding_dim, heads)}",
            )
        vocab_size = vocab_size or self.need_tokenizer().vocab_size
        hidden = intermediate_size or 4 * embedding_dim
        self.token_embedding = nn.Embedding(vocab_size, embedding_dim)
        self.position_embedding = nn.Embedding(max_len, embedding_dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(embedding_dim, heads, hidden, dropout, bias) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(embedding_dim, bias=bias)
        self.head = nn.Linear(embedding_dim, vocab_size, bias=False)
        self._init_weights(init)
        if tied:
            self.head.weight = self.token_embedding.weight

    def forward(
        self, tokens: Tensor, cache: KVCache | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """tokens (B, T) -> logits (B, T, V); with a cache each row's last ones, (B, 1, V)."""
        hidden = self.hidden(tokens, cache, documents)
        return self.head(hidden if cache is None else cache.last(hidden))

    def loss(self, batch: Batch) -> Loss:
        """The cross-entropy, without ever holding all logits."""
        total = linear_cross_entropy(
            self.hidden(batch.inputs, documents=batch.documents).flatten(0, 1),
            self.head.weight,
            batch.targets.flatten(),
            batch.weights.flatten(),
            vocab_size=self.tokenizer.vocab_size if self.tokenizer else None,
        )
        return Loss(total, batch.count, batch.bytes)

    def hidden(
        self, tokens: Tensor, cache: KVCache | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """What the head reads: tokens (B, T) -> (B, T, C), normalised."""
        if tokens.shape[1] > self.max_len:
            raise ModelError(f"{tokens.shape[1]} tokens for a context of {self.max_len} (max_len)")
        if cache is None:
            positions = positions_in(tokens, documents)
            mask = Mask.causal(tokens.shape[1], tokens.device, documents)
        else:
            positions, mask = cache.positions, Mask.all()  # each layer's cache brings its own mask
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        x = self.dropout(x).to(activation_dtype(x.device, x.dtype))
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, mask, cache)
        return self.norm(x)

    def make_cache(self, batch_size: int, length: int) -> KVCache:
        """Keys and values of `length` tokens for each of `batch_size` rows."""
        return KVCache(batch_size, length, layers=len(self.blocks), device=self.device)

    def flops_per_token(self, length: int) -> int:
        """Of training: 6 a parameter that multiplies, and 12 a channel and key for attention."""
        channels = len(self.blocks) * self.token_embedding.embedding_dim
        return super().flops_per_token(length) + 12 * channels * length

    @torch.no_grad()
    def _init_weights(self, init: Init) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                _draw(module.weight, init)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        # two additions a block: without the factor the residual stream grows with depth
        for module in self.modules():
            if isinstance(module, Block):
                module.attention_out.weight.mul_((2 * len(self.blocks)) ** -0.5)
                module.mlp_out.weight.mul_((2 * len(self.blocks)) ** -0.5)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, bias=bias)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.attention_out = nn.Linear(width, width, bias=bias)
        self.mlp_norm = nn.LayerNorm(width, bias=bias)
        self.mlp_in = nn.Linear(width, hidden, bias=bias)
        self.mlp_out = nn.Linear(hidden, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, layer: int, mask: Mask, cache: KVCache | None) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), layer, mask, cache))
        hidden = F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")
        return x + self.dropout(self.mlp_out(hidden))

    def attention(self, x: Tensor, layer: int, mask: Mask, cache: KVCache | None) -> Tensor:
        """Causal self-attention, (B, T, C) -> (B, T, C)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v, mask = cache.append(layer, k, v)
        mixed = attend(q, k, v, mask=mask)  # (B, H, T, D)
        return self.attention_out(mixed.transpose(1, 2).flatten(2))


def positions_in(tokens: Tensor, documents: Tensor | None) -> Tensor:
    """Places of `tokens` (B, T) from 0 on, counted anew in each document: (T,) or (B, T)."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    if documents is None:
        return places
    begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return places - (places * begins).cummax(1).values


def _draw(weight: Tensor, init: Init) -> None:
    if init == "gpt2":
        nn.init.normal_(weight, std=0.02)
    elif init == "xavier":
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.kaiming_uniform_(weight, nonlinearity="relu")


def _nearest_divisor(whole: int, wish: int) -> int:
    return min((n for n in range(1, whole + 1) if whole % n == 0), key=lambda n: abs(n - wish))
