"""learner: how one optimizer step is made: accumulate, check, clip, step; knows no stage."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.config.names import MEND, full_name, plugin_errors
from lmkit.errors import ConfigError
from lmkit.model import LMBase, Loss
from lmkit.optim import OptimizerSet
from lmkit.ranks.lost import is_of_collective
from lmkit.ranks.world import World
from lmkit.text import Batch
from lmkit.train.accumulate import accumulate
from lmkit.train.anomaly import Anomaly, Detector
from lmkit.train.average import WeightAverage
from lmkit.train.compiling import compile_errors
from lmkit.train.memory import MicroBatch
from lmkit.train.precision import Precision
from lmkit.train.strategy import Strategy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What one optimizer step did.

    Attributes:
        loss: the global batch's sum and count.
        grad_norm: of all trained parameters, before clipping.
        skipped: nothing was stepped: fp16 overflowed and its loss scale was halved, or the step
            was an anomaly that a run passed over.
        notes: what else is logged with it.
    """

    loss: Loss
    grad_norm: Tensor | float
    skipped: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)


class Learner:
    """A model with its optimizers, on this rank, ready to step.

    Args:
        micro_batch: the rows that go through the model at once; shrinks when memory runs out.
        compile: compile `model.loss` with torch.compile.
        dropout: train with the model's dropout on.
        strategy: what each rank keeps; by default all of it.

    Attributes:
        average: of the weights, where the stage wants one; whoever says when updates it.
        detector: tells which steps must not be taken: those that are not finite, or a run's own.
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
        strategy: Strategy | None = None,
    ) -> None:
        self.model = model
        self.optimizers = optimizers
        self.world = world
        self.precision = precision
        self.micro_batch = micro_batch
        self.dropout = dropout
        self.strategy = strategy or Strategy(world)
        self.average: WeightAverage | None = None
        self.detector = Detector()
        precision.prepare(model)
        self._bare = self.strategy.loss_module(model)
        if compile:
            self._bare.compile()  # in place: the names in state_dict stay as they are
        self._wrapped = self.strategy.wrap(self._bare)
        self._reached = False  # whether it is known that gradients reach every parameter

    def agree_on_micro_batch(self, batch: Batch) -> None:
        """Find, before the first step, a micro-batch that fits on every rank.

        For several ranks: once DDP reduces gradients, one that ran out of memory could not try
        again alone. Where the ranks need each other for the trial too, it is not tried again.

        Raises:
            ConfigError: one row does not fit, or DDP would wait for a gradient that never comes.
        """
        alone = self.strategy.tries_alone
        work = self._accumulate_alone if alone else self._accumulate
        self.micro_batch.fit(lambda: work(batch, 0), self._forget, alone=alone)
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
            Anomaly: loss or gradient is NaN or infinite, or the detector calls it a spike; on no
                rank was a weight changed, and the gradients are still there to look into.
            PluginError: the model or an optimizer fails; holds its traceback.
        """
        self.model.train(self.dropout)
        loss = self.micro_batch.fit(
            lambda: self._accumulate(batch, seed),
            self._forget,
            alone=self.world.size == 1 and self.strategy.tries_alone,
        )
        if not self._reached:
            self._reached = True
            if idle := self._idle():
                logger.warning("no gradient reaches %s: not trained", idle)
        self.precision.unscale(self.optimizers)
        grad_norm = self.optimizers.grad_norm()
        anomaly = self._judge(loss, grad_norm)
        skipped = self.precision.overflowed(anomaly is None or anomaly.kind != "not_finite")
        if anomaly is not None and not skipped:
            anomaly.batch, anomaly.seed = batch, seed
            raise anomaly
        if not skipped and grad_norm > 0:  # at 0 momentum and decay would move what learns nothing
            self.optimizers.step(clip, grad_norm)
        self._forget()
        return Step(loss, grad_norm, skipped)

    def run_again(self, batch: Batch, seed: int) -> None:
        """This rank's rows once more, forward and backward, to look into a step that was not taken;
        every rank calls it. Gradients that are left are of these rows alone: where the ranks meet
        in every micro-batch they cannot be told apart, and none are left."""
        self._forget()
        if self.strategy.lockstep:
            self._accumulate(batch, seed)
            self._forget()
        else:
            self._accumulate_alone(batch, seed)

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Take up all else of a checkpoint whose weights the model has. Where there is an average
        they are it; those that are trained follow, and the optimizers' state.

        Raises:
            CheckpointError: it is damaged, or of other optimizers.
        """
        if self.average is not None:
            self.average.take()
        checkpoint.load_trained(self.model)
        checkpoint.load_optimizers(self.optimizers)

    def _judge(self, loss: Loss, grad_norm: Tensor) -> Anomaly | None:
        """The anomaly that the step is, on all ranks if it is one on any."""
        anomaly = self.detector.judge(loss, grad_norm.item())
        kinds = self.detector.KINDS
        worst = kinds[int(self.world.max(kinds.index(anomaly.kind if anomaly else "")))]
        if worst and anomaly is None:
            anomaly = Anomaly(worst, loss, grad_norm.item(), f"{worst} on another rank")
        return anomaly

    def _accumulate(self, batch: Batch, seed: int) -> Loss:
        """The gradient of all ranks' rows."""
        with self._model_errors():
            return self.strategy.accumulate(self._wrapped, batch, **self._how(seed))

    def _accumulate_alone(self, batch: Batch, seed: int) -> Loss:
        """The gradient of this rank's rows, which no other rank waits for."""
        world = World(self.world.rank, 1, self.world.device)
        with self._model_errors():
            return accumulate(self._bare, batch, world=world, **self._how(seed))

    @contextmanager
    def _model_errors(self) -> Iterator[None]:
        """Told in one line, but for those that other ranks or the memory are the cause of."""
        said = f"{full_name(type(self.model))} fails in training"
        with plugin_errors(said, hint=MEND, passes=is_of_collective), compile_errors():
            yield

    def _how(self, seed: int) -> dict[str, Any]:
        rows, precision = self.micro_batch.rows, self.precision
        return {"micro_batch": rows, "precision": precision, "seed": seed}

    def _idle(self) -> str:
        """The trainable parameters that the last backward pass did not reach."""
        named = self.model.named_parameters()
        return ", ".join(name for name, p in named if p.requires_grad and p.grad is None)

    def _forget(self) -> None:
        self.optimizers.zero_grad()
