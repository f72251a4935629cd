"""accumulate: one step's gradient, the same for any micro-batch size and number of ranks.

The loss is summed over tokens and divided once, by the number of trained tokens of the *global*
batch. A mean per micro-batch, averaged, weighs tokens by the company they are in: 5-12 % off on
ragged batches. The same up to rounding, that is; `ordered` has the same to the bit.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lmkit.errors import ModelError
from lmkit.model import LMBase, Loss
from lmkit.ranks.world import World
from lmkit.text import Batch
from lmkit.train.precision import Precision


class LossModule(nn.Module):
    """What DDP wraps: DDP sees only `forward`, and the hot path is `model.loss`."""

    def __init__(self, model: LMBase) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss of `batch`, a scalar."""
        return self.model.loss(batch).total


def accumulate(
    loss_module: nn.Module,
    batch: Batch,
    *,
    micro_batch: int,
    world: World,
    precision: Precision,
    seed: int,
    lockstep: bool = False,
) -> Loss:
    """Leave the gradient of the global batch's mean loss in the parameters' `.grad`.

    Args:
        loss_module: `Strategy.wrap(LossModule(model))`.
        batch: this rank's rows of the global batch, on the CPU; there may be none.
        micro_batch: rows that go through the model at once.
        seed: the random numbers (dropout) of a micro-batch follow from it, the rank and the row, so
            that a resumed run draws the same ones and nothing need be saved.
        lockstep: the ranks meet in every micro-batch and not at the last one only: one that has
            fewer goes on with rows of weight zero.

    Returns:
        the loss of the global batch: sum over all ranks, detached; all else in it likewise.
    """
    chunks = micro_batches(batch, micro_batch)
    numbers = [batch.count, batch.bytes, batch.checksum(), *world.in_place(len(chunks))]
    count, n_bytes, checksum, *cut = world.sum(numbers)
    if lockstep:
        chunks += [blank(batch.width)] * (int(max(cut)) - len(chunks))
    # DDP averages over ranks, so the sum over ranks needs the factor `size`. A batch of zero
    # weights (equal advantages, say) has the gradient zero, not 0/0.
    factor = precision.scale * world.size / (count or 1.0)
    total = torch.zeros((), device=world.device)
    for index, chunk in enumerate(chunks):
        last = index == len(chunks) - 1
        with _no_sync(loss_module, unless=last):
            seeds = (seed, world.rank, index)
            total += backward(loss_module, chunk.to(world.device), factor, precision, seeds)
    if world.size > 1:
        total = torch.tensor(world.sum([total.item()])[0], device=world.device)
    return Loss(total, int(count), int(n_bytes), int(checksum))


def backward(
    loss_module: nn.Module,
    chunk: Batch,
    factor: float,
    precision: Precision,
    numbers: tuple[int, ...],
) -> Tensor:
    """Add `factor` times the gradient of one micro-batch's loss; gives that loss, in float32.

    Args:
        chunk: on the model's device.
        numbers: what the random numbers follow from.

    Raises:
        ModelError: the loss does not hang on the weights.
    """
    torch.manual_seed(hash(numbers) & 0x7FFF_FFFF_FFFF_FFFF)
    with precision.autocast():
        loss = loss_module(chunk)
    if not loss.requires_grad:
        raise ModelError(
            "the loss has no gradient", hint="is there a no_grad or detach in the model?"
        )
    (loss * factor).backward()
    return loss.detach().float()


def micro_batches(batch: Batch, rows: int) -> list[Batch]:
    """Cut `batch` into chunks of at most `rows` rows.

    A rank without rows (the ragged end of a stage) still takes part in DDP's reduction: it gets one
    row of weight zero.
    """
    if len(batch) == 0:
        return [blank(batch.width)]
    return [batch.rows(at, min(at + rows, len(batch))) for at in range(0, len(batch), rows)]


def blank(width: int) -> Batch:
    """One row of weight zero."""
    row = torch.zeros(1, width, dtype=torch.int64)
    return Batch(row, row, row.float(), None, count=0, bytes=0)


def _no_sync(module: nn.Module, *, unless: bool) -> AbstractContextManager[Any]:
    """DDP reduces gradients once a step, at the last micro-batch."""
    if unless or not isinstance(module, nn.parallel.DistributedDataParallel):
        return nullcontext()
    return module.no_sync()
