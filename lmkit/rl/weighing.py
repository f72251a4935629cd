"""weighing: what the targets of a batch weigh, from log-probabilities; knows no task and no stage.

The gradient of every objective here is a weighted sum of the gradients of the targets'
log-probabilities. So an objective comes down to weights, which are worked out without a graph, and
the step that follows is the one of any other batch, with the model's own loss.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lmkit.model import LMBase
from lmkit.text import Batch
from lmkit.train.accumulate import micro_batches
from lmkit.train.memory import MicroBatch
from lmkit.train.precision import Precision


def log_probs(model: LMBase, batch: Batch, micro_batch: MicroBatch, precision: Precision) -> Tensor:
    """The log-probabilities of a batch's targets, (B, T) float32 on the CPU; no graph.

    Args:
        micro_batch: the rows that go through the model at once; fewer if memory runs out.
    """
    if not len(batch):
        return torch.zeros(0, batch.width)

    def work() -> Tensor:
        chunks = micro_batches(batch, micro_batch.rows)
        return torch.cat([model.log_probs(chunk.to(model.device)).cpu() for chunk in chunks])

    with torch.no_grad(), model.evaluating(), precision.autocast():
        return micro_batch.fit(work, lambda: None)


def of_documents(batch: Batch, values: Tensor) -> Tensor:
    """Spread a value a document, (B, D), over the positions of the document, (B, T)."""
    if batch.documents is None:
        return values[:, :1].expand(-1, batch.width)
    return values.gather(1, batch.documents.long().clamp(min=0))


def by_document(batch: Batch, values: Tensor, documents: int) -> Tensor:
    """Sum what each position has, (B, T), over the trained targets of a document: (B, D)."""
    trained = values * (batch.weights != 0)
    if batch.documents is None:
        return trained.sum(dim=1, keepdim=True)
    sums = torch.zeros(len(batch), documents, dtype=values.dtype)
    return sums.scatter_add(1, batch.documents.long().clamp(min=0), trained)


def weighed(batch: Batch, weights: Tensor) -> Batch:
    """The batch with other weights. Its count stays: what it is divided by is the number of targets
    that were sampled, also of those that turn out to weigh nothing."""
    return replace(batch, weights=weights)
