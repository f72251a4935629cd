"""spans: how well a model foresees the ends of some rows of ids; many rows at once, by length.

B rows, T tokens a row, V entries of the vocabulary, N judged tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lmkit.errors import NumericError
from lmkit.model import LMBase

# Logits held at once. On a CPU more are slower: their memory is handed back and asked for again at
# every batch. Rows of 41 tokens, a vocabulary of 4,096, milliseconds a row: 6.2 one by one, 2.7
# with 2**22 logits, 5.4 with 2**27; of 634 tokens: 35, 39 and 76.
CPU_LOGITS, DEVICE_LOGITS = 2**22, 2**27


class Span(NamedTuple):
    """A row of ids, of which those from `start` on are judged; 1 <= start < len(ids)."""

    ids: tuple[int, ...]
    start: int

    def cropped(self, length: int) -> Span:
        """The last `length` ids; if the judged part alone is longer, it loses its beginning."""
        left_out = max(0, len(self.ids) - length)
        return Span(self.ids[left_out:], max(1, self.start - left_out))


class Judged(NamedTuple):
    """What came of a span.

    Attributes:
        loss: mean over the judged tokens, in nats.
        exact: each of them is the likeliest after those before it.
    """

    loss: float
    exact: bool


def judge(
    model: LMBase, spans: Iterable[Span], max_logits: int | None = None
) -> dict[Span, Judged]:
    """Read every span once; no gradients, dropout off.

    A span's numbers do not depend on the others but for the rounding of its model's arithmetic:
    within 1e-5 in float32. Equal spans have equal numbers.

    Args:
        spans: at most one id longer than the model's context.
        max_logits: numbers held at once, though a row at least; by default what suits the device.

    Raises:
        NumericError: logits that are not finite.
    """
    model.check()
    suits = CPU_LOGITS if model.device.type == "cpu" else DEVICE_LOGITS
    most = (max_logits or suits) // model.need_tokenizer().vocab_size
    found: dict[Span, Judged] = {}
    with torch.no_grad(), model.evaluating():
        for batch in _batches(set(spans), most):
            found.update(zip(batch, _judge(model, batch), strict=True))
    return found


def _batches(spans: Iterable[Span], most: int) -> Iterator[list[Span]]:
    """Spans of about one length, at most `most` tokens with the padding."""
    batch: list[Span] = []
    for span in sorted(spans, key=lambda span: (len(span.ids), span)):
        if batch and (len(batch) + 1) * len(span.ids) > most:
            yield batch
            batch = []
        batch.append(span)
    if batch:
        yield batch


def _judge(model: LMBase, batch: list[Span]) -> list[Judged]:
    width = len(batch[-1].ids) - 1
    # padded on the right: what is judged comes before the padding, and a model looks back only
    inputs = torch.tensor([_padded(span.ids[:-1], width) for span in batch], device=model.device)
    rows, places, targets = _judged_places(batch, model.device)
    vocab_size = model.need_tokenizer().vocab_size
    logits = model.logits(inputs)[rows, places, :vocab_size].float()  # (N, V)
    losses = F.cross_entropy(logits, targets, reduction="none")
    told = iter(zip(losses.tolist(), (logits.argmax(dim=-1) == targets).tolist(), strict=True))
    return [_mean(list(islice(told, len(span.ids) - span.start))) for span in batch]


def _padded(ids: tuple[int, ...], width: int) -> tuple[int, ...]:
    return ids + (0,) * (width - len(ids))


def _judged_places(batch: list[Span], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of every judged token (N,) its row, the place that foresees it, and itself."""
    rows = [row for row, span in enumerate(batch) for _ in span.ids[span.start :]]
    places = [place for span in batch for place in range(span.start - 1, len(span.ids) - 1)]
    targets = [token for span in batch for token in span.ids[span.start :]]
    of_all = torch.tensor([rows, places, targets], device=device)
    return of_all[0], of_all[1], of_all[2]


def _mean(told: list[tuple[float, bool]]) -> Judged:
    loss = math.fsum(loss for loss, _ in told) / len(told)
    if not math.isfinite(loss):
        raise NumericError(
            "the logits are not finite",
            hint="the weights hold NaN or infinity, or a half-precision dtype overflows",
        )
    return Judged(loss, all(exact for _, exact in told))
