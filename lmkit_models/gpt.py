"""gpt: the modern transformer, one dial `depth`; every trick an argument that can be switched off.

The recipe is nanochat's (github.com/karpathy/nanochat, gpt.py at 92d63d4), most of which comes from
the speed runs of modded-nanogpt (github.com/KellerJordan/modded-nanogpt); the source of each trick
stands beside its argument. Its smear and backout are left out: at depth 4 they gained nothing
(after 0.8 M tokens of Python 1.678 bits per byte with them, 1.677 without).

Shapes: B rows, T tokens, C width, H heads, Hkv key/value heads, D head width, V padded vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmkit.errors import ModelError
from lmkit.model import Batch, LMBase, Loss, linear_cross_entropy
from lmkit.nn import (
    KVCache,
    Mask,
    activation_dtype,
    attend,
    offset_keys,
    relu_squared,
    rms_norm,
    rotate,
    rotation,
)
from lmkit_models.rates import nanochat_optimizers

HEAD_DIM = 128
GATE_WIDTH = 12  # channels of x that decide how much of a value embedding a head takes
QK_GAIN = 1.2  # on normalised queries and keys each: sharper attention
LONG, SHORT = "L", "S"


class GPT(LMBase):
    """nanochat's transformer; `depth` alone gives a well-proportioned model.

    Args:
        depth: transformer blocks.
        width: channels of the residual stream; None for 64 * depth rounded up to a multiple of 128.
        head_dim: width of an attention head, of which there are width / head_dim; None for 128, or
            half of the width if that is less.
        kv_heads: heads of keys and values, a divisor of the heads (grouped-query attention, Ainslie
            et al., arXiv 2305.13245); None for as many as heads.
        max_len: tokens of context.
        mlp_ratio: the MLP is that many times as wide as the residual stream. Its activation is
            the squared ReLU (Primer, So et al., arXiv 2109.08668).
        window_pattern: a letter a layer, repeated over the depth; S sees only the `window` last
            tokens, L all (Longformer, arXiv 2004.05150; alternation as in Gemma 2, arXiv
            2408.00118). The last layer is L whatever the pattern says.
        window: keys that an S layer sees; None for a quarter of max_len, rounded up to a multiple
            of 128.
        rotary_base: longest wavelength of the rotary positions / 2 pi (RoFormer, arXiv 2104.09864).
        qk_norm: normalise queries and keys (Henry et al., arXiv 2010.04245), times 1.2 each.
        key_offset: half of the heads of keys, if there are two, stand one token late, so that a
            single layer can go on with what followed the last time (`lmkit.nn.offset`).
        logit_softcap: c in c * tanh(logits / c) (Gemma 2); None for none.
        value_embeddings: every second layer mixes into its values a vector of its own for each
            token, through a gate (value residuals, Zhou et al., arXiv 2410.17897; the table is
            modded-nanogpt's).
        residual_scalars: a learned factor on the residual stream before each layer.
        embedding_scalars: a learned share of the first layer's input added before each layer (both
            modded-nanogpt's "x0 lambdas").
        zero_init: what writes into the residual stream starts at zero (Fixup, Zhang et al., arXiv
            1901.09321); else small and uniform.
        tied_head: the head shares the embedding's weight.
        pad_vocab_to: rows of embedding and head come in multiples of this, which matrix units like;
            the logits are cut back to the vocabulary.
        vocab_size: None for the tokenizer's own number.

    Raises:
        ModelError: measures that do not fit one another, or neither a tokenizer nor a vocab_size.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int | None = None,
        head_dim: int | None = None,
        kv_heads: int | None = None,
        max_len: int = 1024,
        mlp_ratio: int = 4,
        window_pattern: str = LONG,
        window: int | None = None,
        rotary_base: float = 100_000.0,
        qk_norm: bool = True,
        key_offset: bool = True,
        logit_softcap: float | None = 15.0,
        value_embeddings: bool = True,
        residual_scalars: bool = True,
        embedding_scalars: bool = True,
        zero_init: bool = True,
        tied_head: bool = False,
        pad_vocab_to: int = 64,
        vocab_size: int | None = None,
        tokenizer: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(tokenizer=tokenizer, max_len=max_len, name=name)
        width = width or _round_up(64 * depth, 128)
        head_dim = head_dim or min(HEAD_DIM, width // 2)
        kv_heads = _kv_heads(width, head_dim, kv_heads)
        self.windows = _windows(depth, window_pattern, window or _round_up(max_len // 4, 128))
        self.vocab_size = vocab_size or self.need_tokenizer().vocab_size
        padded = _round_up(self.vocab_size, pad_vocab_to)
        late = kv_heads // 2 if key_offset else 0
        # the last layer has a value embedding, then every second one before it (nanochat)
        valued = [padded * (value_embeddings and (depth - i) % 2) for i in range(depth)]
        self.rotary_base, self.head_dim = rotary_base, head_dim
        self.logit_softcap, self.zero_init, self.tied_head = logit_softcap, zero_init, tied_head

        self.token_embedding = nn.Embedding(padded, width)
        self.blocks = nn.ModuleList(
            Block(
                Attention(i, width, head_dim, kv_heads, qk_norm, late, self.windows[i], valued[i]),
                mlp_ratio,
            )
            for i in range(depth)
        )
        self.head = nn.Linear(width, padded, bias=False)
        if tied_head:
            self.head.weight = self.token_embedding.weight
        self.residual_scale = nn.Parameter(torch.empty(depth)) if residual_scalars else None
        self.embedding_scale = nn.Parameter(torch.empty(depth)) if embedding_scalars else None
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw every parameter anew from torch's generator, as nanochat does."""
        depth, width = len(self.blocks), self.token_embedding.embedding_dim
        bound = (3 / width) ** 0.5  # a uniform with the standard deviation width**-0.5
        writing = 0.0 if self.zero_init else bound * depth**-0.5
        spans = {"q": bound, "k": bound, "v": bound, "value_embedding": bound, "out": writing}
        spans |= {"mlp_in": 0.4 * bound, "mlp_out": writing}
        for name, parameter in self.blocks.named_parameters():
            role = name.split(".")[-2]
            if role == "gate":
                nn.init.uniform_(parameter, 0.0, 0.02)
            else:
                nn.init.uniform_(parameter, -spans[role], spans[role])
        nn.init.normal_(self.token_embedding.weight, std=0.8)
        # tied, it is the embedding (which is normalised): GPT-2's 0.02, for small first logits
        nn.init.normal_(self.head.weight, std=0.02 if self.tied_head else 0.001)
        if self.residual_scale is not None:
            self.residual_scale.copy_(torch.linspace(1.15, 1.05, depth))
        if self.embedding_scale is not None:
            self.embedding_scale.copy_(torch.linspace(0.20, 0.05, depth))

    def forward(
        self, tokens: Tensor, cache: KVCache | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """tokens (B, T) -> logits (B, T, vocab_size) in float32; with a cache those of each row's
        last token, (B, 1, vocab_size). documents (B, T): tokens attend to their own number only."""
        hidden = self.hidden(tokens, cache, documents)
        if cache is not None:
            hidden = cache.last(hidden)
        logits = self.head(hidden)[..., : self.vocab_size].float()
        if self.logit_softcap is None:
            return logits
        return self.logit_softcap * torch.tanh(logits / self.logit_softcap)

    def loss(self, batch: Batch) -> Loss:
        """The cross-entropy, without ever holding all logits."""
        total = linear_cross_entropy(
            self.hidden(batch.inputs, documents=batch.documents).flatten(0, 1),
            self.head.weight,
            batch.targets.flatten(),
            batch.weights.flatten(),
            softcap=self.logit_softcap,
            vocab_size=self.vocab_size,
        )
        return Loss(total, batch.count, batch.bytes)

    def hidden(
        self, tokens: Tensor, cache: KVCache | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """What the head reads: tokens (B, T) -> (B, T, C), normalised."""
        shared = self._shared(tokens, cache, documents)
        x = rms_norm(shared.look_up(self.token_embedding))
        first = x
        for i, block in enumerate(self.blocks):
            if self.residual_scale is not None:
                x = self.residual_scale[i] * x
            if self.embedding_scale is not None:
                x = x + self.embedding_scale[i] * first
            x = block(x, shared)
        return rms_norm(x)

    def _shared(self, tokens: Tensor, cache: KVCache | None, documents: Tensor | None) -> Shared:
        length, device = tokens.shape[1], tokens.device
        if length > self.max_len:
            raise ModelError(f"{length} tokens for a context of {self.max_len} (max_len)")
        dtype = activation_dtype(device, self.token_embedding.weight.dtype)
        positions = torch.arange(length, device=device) if cache is None else cache.positions
        turn = rotation(positions, self.head_dim, base=self.rotary_base, dtype=dtype)
        if cache is not None:
            return Shared(tokens, dtype, turn, {}, None, cache)
        masks = {w: Mask.causal(length, device, documents, w) for w in set(self.windows)}
        return Shared(tokens, dtype, turn, masks, documents, None)

    def make_cache(self, batch_size: int, length: int) -> KVCache:
        """Keys and values of `length` tokens for each of `batch_size` rows."""
        return KVCache(batch_size, length, layers=len(self.blocks), device=self.device)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once: matrices (and gates) of the blocks, embeddings, value_embeddings,
        head (tied or not), scalars."""
        roles = {"head.weight": "head", "token_embedding.weight": "embeddings"}
        if self.tied_head:  # one parameter, which has the embedding's name
            roles["token_embedding.weight"] = "head"
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            role = "matrices" if name.startswith("blocks.") else roles.get(name, "scalars")
            role = "value_embeddings" if "value_embedding" in name else role
            groups.setdefault(role, []).append(parameter)
        return groups

    def default_optimizers(self, batch_tokens: int, steps: int) -> list[dict[str, Any]]:
        """Muon for the matrices, AdamW for the rest, at the rates of `lmkit_models.rates`."""
        parts = {*self.param_groups(), *(name for name, _ in self.named_parameters())}
        width, parameters = self.token_embedding.embedding_dim, self.scaling_parameter_count()
        return nanochat_optimizers(parts, width, parameters, batch_tokens, steps)

    def flops_per_token(self, length: int) -> int:
        """Of training: 6 a parameter that multiplies, and 12 a channel and key for attention."""
        keys = sum(min(window or length, length) for window in self.windows)
        return super().flops_per_token(length) + 12 * self.token_embedding.embedding_dim * keys


@dataclass(frozen=True)
class Shared:
    """What all layers of one forward share.

    dtype: of the activations. turn: the rotation of the positions. masks: one for each window;
    none with a cache, which brings its own. documents: (B, T), or None where all is one.
    """

    tokens: Tensor
    dtype: torch.dtype
    turn: tuple[Tensor, Tensor]
    masks: dict[int | None, Mask]
    documents: Tensor | None
    cache: KVCache | None

    def look_up(self, table: nn.Embedding) -> Tensor:
        """The tokens' vectors, (B, T, width of the table)."""
        return table(self.tokens).to(self.dtype)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, attention: Attention, mlp_ratio: int) -> None:
        super().__init__()
        width = attention.q.in_features
        self.attention = attention
        self.mlp_in = nn.Linear(width, mlp_ratio * width, bias=False)
        self.mlp_out = nn.Linear(mlp_ratio * width, width, bias=False)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        x = x + self.attention(rms_norm(x), shared)
        return x + self.mlp_out(relu_squared(self.mlp_in(rms_norm(x))))


class Attention(nn.Module):
    """Causal self-attention of one layer; with `value_rows` it has a value embedding."""

    def __init__(
        self,
        layer: int,
        width: int,
        head_dim: int,
        kv_heads: int,
        qk_norm: bool,
        late: int,
        window: int | None,
        value_rows: int,
    ) -> None:
        super().__init__()
        self.layer, self.head_dim, self.qk_norm = layer, head_dim, qk_norm
        self.late, self.window = late, window
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.value_embedding = None
        if value_rows:
            self.value_embedding = nn.Embedding(value_rows, kv_heads * head_dim)
            self.gate = nn.Linear(GATE_WIDTH, kv_heads, bias=False)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        heads = (-1, self.head_dim)
        q, k, v = (linear(x).unflatten(-1, heads) for linear in (self.q, self.k, self.v))
        if self.value_embedding is not None:
            share = 3 * torch.sigmoid(self.gate(x[..., :GATE_WIDTH]))  # (B, T, Hkv)
            value = shared.look_up(self.value_embedding).unflatten(-1, heads)
            v = torch.addcmul(v, share[..., None], value)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))  # (B, H, T, D)
        scale = self.head_dim**-0.5
        if self.qk_norm:
            q, k, scale = rms_norm(q), rms_norm(k), scale * QK_GAIN**2
        q, k = rotate(q, shared.turn), rotate(k, shared.turn)
        if shared.cache is None:
            k, mask = offset_keys(k, self.late, shared.documents), shared.masks[self.window]
        else:
            k, v, mask = shared.cache.append(self.layer, k, v, self.window, self.late)
        return self.out(attend(q, k, v, mask=mask, scale=scale).transpose(1, 2).flatten(2))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _kv_heads(width: int, head_dim: int, kv_heads: int | None) -> int:
    """Heads of keys and values, checked against those of the queries."""
    if width % head_dim or head_dim % 2:
        raise ModelError(
            f"width {width} is no multiple of an even head_dim {head_dim}",
            hint="give both, e.g. width: 256, head_dim: 64",
        )
    heads = width // head_dim
    if heads % (kv_heads or heads):
        raise ModelError(f"kv_heads {kv_heads} does not divide the {heads} heads")
    return kv_heads or heads


def _windows(depth: int, pattern: str, window: int) -> list[int | None]:
    """The window of each layer; None sees all."""
    if not pattern or set(pattern) - {LONG, SHORT}:
        raise ModelError(f"window_pattern {pattern!r} is not made of S and L", hint="e.g. SSSL")
    letters = [pattern[i % len(pattern)] for i in range(depth - 1)] + [LONG]
    return [window if letter == SHORT else None for letter in letters]
