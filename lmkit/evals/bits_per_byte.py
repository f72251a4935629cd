"""bits_per_byte: how well a model predicts text, on a scale that no vocabulary can bend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lmkit.errors import DataError
from lmkit.model import LMBase
from lmkit.model.memory import in_halves
from lmkit.text.batch import Batch


@dataclass(frozen=True, slots=True)
class BitsPerByte:
    """What was measured.

    Attributes:
        bits_per_byte: bits that the model needs for a byte of UTF-8 text.
        loss: nats a token.
        tokens: counted tokens, special ones left out.
        bytes: of those tokens.
    """

    bits_per_byte: float
    loss: float
    tokens: int
    bytes: int


def bits_per_byte(
    model: LMBase,
    batches: Iterable[Batch],
    add: Callable[[Sequence[float]], list[float]] = list,
) -> BitsPerByte:
    """Measure the model on the trained targets of some batches, which lie on the CPU.

    Special tokens are no text: they weigh nothing here, and their loss is left out (nanochat's
    definition). Every other trained target counts one, whatever its weight. No gradients; dropout
    is off, and the model's mode as before afterwards. The loss is read off the device at the end.
    A batch that the memory does not hold is measured in halves.

    Args:
        batches: this rank's share; there may be none.
        add: sums numbers over all ranks.

    Raises:
        DataError: no token to measure on.
        ModelError: the model has no tokenizer.
    """
    token_bytes = torch.from_numpy(model.need_tokenizer().token_bytes)
    losses: list[Tensor] = []
    tokens = n_bytes = 0
    with torch.no_grad(), model.evaluating():
        for batch in batches:
            if not len(batch):
                continue  # a rank's share of a ragged last batch
            counted = (batch.weights != 0) & (token_bytes[batch.targets] > 0)
            count = int(counted.sum())
            text = replace(batch, weights=counted.float(), count=count)
            losses += in_halves(partial(_loss, model, text), 0, len(text))
            tokens += count
            n_bytes += batch.bytes
    total = sum(loss.item() for loss in losses)
    nats, all_tokens, all_bytes = add([total, tokens, n_bytes])
    if not all_bytes:
        raise DataError("no text to measure bits per byte on", hint="is the validation set empty?")
    return BitsPerByte(
        nats / math.log(2) / all_bytes, nats / all_tokens, int(all_tokens), int(all_bytes)
    )


def _loss(model: LMBase, batch: Batch, start: int, stop: int) -> Tensor:
    part = batch if stop - start == len(batch) else batch.rows(start, stop)
    return model.loss(part.to(model.device)).total
