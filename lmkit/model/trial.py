"""trial: what every model must hold to, tried on a few tokens; knows no task and no data."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmkit.config.names import MEND, full_name, plugin_errors
from lmkit.errors import ModelError

if TYPE_CHECKING:
    from lmkit.model.base import LMBase


def try_forward(model: LMBase) -> None:
    """Two tokens through the model. Token 0 is in every vocabulary, so that a tokenizer bigger than
    the model's embedding is told by its logits and not by an index error.

    Raises:
        ModelError: as `check_logits`.
        PluginError: `forward` fails; holds its traceback.
    """
    tokens = torch.zeros(1, min(2, model.max_len), dtype=torch.long, device=model.device)
    with _told(model, tokens), torch.no_grad(), model.evaluating():
        model.logits(tokens)


def try_causality(model: LMBase) -> None:
    """Two rows that differ in their last token only.

    Raises:
        ModelError: that token changes the logits before it.
        PluginError: as `try_forward`.
    """
    length = min(8, model.max_len)
    tokens = torch.zeros(2, length, dtype=torch.long, device=model.device)
    tokens[1, -1] = 1
    with _told(model, tokens), torch.no_grad(), model.evaluating():
        one, other = model.logits(tokens)[:, :-1].float()
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ModelError(
            f"{type(model).__qualname__} is not causal: a token changes the logits before it",
            hint="position t may depend on the tokens 0..t only",
        )


def _told(model: LMBase, tokens: Tensor) -> AbstractContextManager[None]:
    said = f"{full_name(type(model))}.forward fails on {tokens.shape[1]} tokens"
    return plugin_errors(said, hint=MEND)


def check_logits(model: LMBase, logits: object, tokens: Tensor, cached: bool) -> None:
    """Whether `logits` can be what `forward` is to give for tokens (B, T): (B, T, V) of floats.

    Args:
        cached: (B, 1, V), each row's last token, will do.

    Raises:
        ModelError: they cannot, or the tokenizer has more ids than V.
    """
    name = type(model).__qualname__
    if not isinstance(logits, Tensor):
        said = f"{name}.forward gave a {type(logits).__name__}, expected logits"
        raise ModelError(said, hint="give a tensor, or a tuple that begins with one")
    batch, length = tokens.shape
    shapes = [(batch, length)] + [(batch, 1)] * cached
    if logits.ndim != 3 or tuple(logits.shape[:2]) not in shapes:
        raise ModelError(
            f"{name}.forward gave logits of shape {tuple(logits.shape)}, "
            f"expected ({batch}, {length}, vocabulary)",
            hint="tokens come as (rows, length): keep both",
        )
    if not logits.is_floating_point():
        said = f"{name}.forward gave logits of {str(logits.dtype).removeprefix('torch.')}"
        raise ModelError(said, hint="give floating-point numbers")
    tokenizer = model.tokenizer
    if tokenizer is not None and logits.shape[2] < tokenizer.vocab_size:
        raise ModelError(
            f"{name} has logits for {logits.shape[2]} ids, "
            f"its tokenizer has {tokenizer.vocab_size}",
            hint="give the model the tokenizer's vocab_size, or a smaller tokenizer",
        )
