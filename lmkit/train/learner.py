"""learner: how one optimizer step is made: accumulate, check, clip, step; knows no stage."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from lmkit.errors import ConfigError, NumericError
from lmkit.model import LMBase, Loss
from lmkit.optim import OptimizerSet
from lmkit.text import Batch
from lmkit.train.accumulate import LossModule, accumulate
from lmkit.train.compiling import compile_errors
from lmkit.train.memory import MicroBatch
from lmkit.train.precision import Precision
from lmkit.train.world import World

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What one optimizer step did.

    Attributes:
        loss: the global batch's sum and count.
        grad_norm: of all trained parameters, before clipping.
        skipped: fp16 overflowed: the loss scale was halved and nothing stepped.
    """

    loss: Loss
    grad_norm: Tensor
    skipped: bool = False


class Learner:
    """A model with its optimizers, on this rank, ready to step.

    Args:
        micro_batch: the rows that go through the model at once; shrinks when memory runs out.
        compile: compile `model.loss` with torch.compile.
        dropout: train with the model's dropout on.
    """

    def __init__(
        self,
        model: LMBase,
        optimizers: OptimizerSet,
        world: World,
        precision: Precision,
        micro_batch: MicroBatch,
        *,
        compile: bool = False,
        dropout: bool = True,
    ) -> None:
        self.model = model
        self.optimizers = optimizers
        self.world = world
        self.precision = precision
        self.micro_batch = micro_batch
        self.dropout = dropout
        precision.prepare(model)
        self._bare = LossModule(model)
        if compile:
            self._bare.compile()  # in place: the names in state_dict stay as they are
        self._wrapped = world.wrap(self._bare)
        self._reached = False  # whether it is known that gradients reach every parameter

    def agree_on_micro_batch(self, batch: Batch) -> None:
        """Find, before the first step, a micro-batch that fits on every rank.

        For several ranks: once DDP reduces gradients, one that ran out of memory could not try
        again alone.

        Raises:
            ConfigError: one row does not fit, or DDP would wait for a gradient that never comes.
        """
        alone = World(0, 1, self.world.device)
        self.micro_batch.fit(lambda: self._accumulate(batch, 0, alone), self._forget)
        if idle := self._idle():
            raise ConfigError(
                f"no gradient reaches {idle}, for which DDP would wait",
                hint="use them in the loss, or name them under freeze:",
            )
        self._forget()
        self.micro_batch.rows = int(self.world.min(self.micro_batch.rows))

    def learn(self, batch: Batch, *, seed: int, clip: float | None) -> Step:
        """One optimizer step on this rank's rows of the global batch.

        Args:
            seed: what the step's random numbers (dropout) follow from.
            clip: greatest norm that the gradient may have; None for any.

        Parameters that the first gradient does not reach are named in a warning.

        Raises:
            NumericError: loss or gradient is NaN or infinite; no weight was changed, and the
                gradients are still there to look into.
        """
        self.model.train(self.dropout)
        loss = self.micro_batch.fit(
            lambda: self._accumulate(batch, seed, self.world),
            self._forget,
            alone=self.world.size == 1,
        )
        if not self._reached:
            self._reached = True
            if idle := self._idle():
                logger.warning("no gradient reaches %s: not trained", idle)
        self.precision.unscale(self.optimizers)
        grad_norm = self.optimizers.grad_norm()
        finite = bool(torch.isfinite(grad_norm) & torch.isfinite(loss.total))
        skipped = self.precision.overflowed(finite)
        if not finite and not skipped:
            raise NumericError(
                f"loss {loss.total.item() / max(loss.count, 1):.4g}, "
                f"gradient norm {grad_norm.item():.4g}: not stepped",
                hint="lower the learning rate, lengthen the warm-up, or set clip:",
            )
        if not skipped and grad_norm > 0:  # at 0 momentum and decay would move what learns nothing
            self.optimizers.step(clip, grad_norm)
        self._forget()
        return Step(loss, grad_norm, skipped)

    def _accumulate(self, batch: Batch, seed: int, world: World) -> Loss:
        with compile_errors():
            return accumulate(
                self._wrapped if world is self.world else self._bare,
                batch,
                micro_batch=self.micro_batch.rows,
                world=world,
                precision=self.precision,
                seed=seed,
            )

    def _idle(self) -> str:
        """The trainable parameters that the last backward pass did not reach."""
        named = self.model.named_parameters()
        return ", ".join(name for name, p in named if p.requires_grad and p.grad is None)

    def _forget(self) -> None:
        self.optimizers.zero_grad()
