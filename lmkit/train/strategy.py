"""strategy: what each rank keeps of weights, gradients and optimizer states; knows no stage.

    ddp      everything; gradients are averaged while they are computed
    sharded  weights and gradients; of the optimizers' states and work its share (ZeRO-1)
    fsdp     a part of each weight, gradient and state, put together block by block (ZeRO-3)

Checkpoints are the same files for all, and fit all.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lmkit.model import LMBase, Loss
from lmkit.optim import OptimizerSet
from lmkit.optim.optimizers import OptimizerState
from lmkit.ranks.world import World
from lmkit.text import Batch
from lmkit.train.accumulate import LossModule, accumulate
from lmkit.train.ordered import accumulate_ordered
from lmkit.train.precision import Precision


class Strategy:
    """Every rank has everything (DDP); or there is but one.

    Attributes:
        ordered: gradients are summed in an order that does not depend on the number of ranks.
        lockstep: the ranks meet in every micro-batch.
    """

    lockstep = False

    def __init__(self, world: World, *, ordered: bool = False) -> None:
        self.world = world
        self.ordered = ordered

    @property
    def tries_alone(self) -> bool:
        """Whether a rank can find out by itself how large a micro-batch fits."""
        return not (self.ordered or self.lockstep)

    def most_rows(self, rows: int) -> int:
        """Of the rows of a step, as many as a micro-batch can have."""
        return rows if self.ordered else -(-rows // self.world.size)

    def cut(self, model: LMBase, precision: Precision) -> None:
        """Leave this rank its part of the weights; at a stage's start, before its optimizers are
        made of them."""

    def share(self, optimizers: OptimizerSet) -> None:
        """Leave this rank its part of the optimizers' work."""
        if self.ordered:
            optimizers.work_alone()

    def loss_module(self, model: LMBase) -> LossModule:
        """What computes the loss of a micro-batch."""
        return LossModule(model)

    def wrap(self, module: LossModule) -> nn.Module:
        """The same, so that its backward pass leaves the gradient of all ranks."""
        if self.world.size == 1 or self.ordered:
            return module
        on_gpu = self.world.device.type == "cuda"
        return DistributedDataParallel(
            module,
            device_ids=[self.world.device] if on_gpu else None,
            gradient_as_bucket_view=True,
        )

    def accumulate(self, module: nn.Module, batch: Batch, **how: Any) -> Loss:
        """Leave the gradient of the global batch, for which the ranks meet.

        Args:
            module: what `wrap` gave.
            batch: this rank's rows.
            how: micro_batch, precision and seed, as of `lmkit.train.accumulate`.
        """
        if self.ordered:
            return accumulate_ordered(module, batch, world=self.world, **how)
        return accumulate(module, batch, world=self.world, lockstep=self.lockstep, **how)

    def whole(self) -> AbstractContextManager[Any]:
        """While the block runs a rank can use the model without the others."""
        return nullcontext()

    def collect(self, named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights by name, or tensors cut like them, whole, on rank 0; every rank has to call it.

        Args:
            named: one that has two names is there twice, as the very same object.
        """
        return {name: tensor.detach() for name, tensor in named.items()}

    def collect_optimizers(
        self, optimizers: OptimizerSet | None
    ) -> OptimizerSet | OptimizerState | None:
        """The optimizers' state, whole, on rank 0; every rank has to call it."""
        return optimizers


class Sharded(Strategy):
    """Optimizer states and the optimizers' work are shared out."""

    def share(self, optimizers: OptimizerSet) -> None:
        optimizers.share(self.world.rank, self.world.size)

    def collect_optimizers(
        self, optimizers: OptimizerSet | None
    ) -> OptimizerSet | OptimizerState | None:
        return optimizers.collect(here=self.world.is_main) if optimizers else None
