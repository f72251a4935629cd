"""share: what lmkit adds to a step, and what its optimizers take of it.

A step of the runner (data, checks and metrics included) against one of a plain PyTorch loop: a copy
of the same model, the same optimizers, precision and micro-batches, its batch ready in memory,
nothing checked and nothing recorded. They take turns in one process.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.contest import Measure, load
from benchmarks.machine import synchronize
from benchmarks.training import PausingRunner, Training
from lmkit.train.accumulate import micro_batches
from lmkit.train.stage_run import StageRun

WARM_UP = 2  # pairs of steps


class Share:
    """An Entry: pairs of steps, lmkit's and the plain loop's; its rate is lmkit's.

    Args:
        trainer: lmkit's,
        arguments: and what that takes.
    """

    def __init__(self, trainer: str, arguments: Mapping[str, Any]) -> None:
        self._training: Training = load(trainer)(**arguments)
        self._plain = self._training.do(_Plain)
        for _ in range(WARM_UP):
            self._pair(0)

    def round(self, seconds: float) -> Measure:
        """Pairs; `more` has the medians of the shares of a step, as fractions of 1."""
        pairs: list[tuple[float, float, float]] = []
        started = time.perf_counter()
        while time.perf_counter() - started < seconds or len(pairs) < 2:
            pairs.append(self._pair(len(pairs)))
        more = {
            "framework": statistics.median(1 - plain / ours for ours, plain, _ in pairs),
            "optimizers": statistics.median(step / plain for _, plain, step in pairs),
        }
        return Measure(self._plain.tokens * len(pairs), sum(ours for ours, _, _ in pairs), more)

    def close(self) -> None:
        """End the training."""
        self._training.close()

    def _pair(self, number: int) -> tuple[float, float, float]:
        """Seconds of lmkit's step, of the plain one, and of the optimizers in that."""
        plain = optimizer = 0.0
        if number % 2:
            plain, optimizer = self._training.do(self._plain.step)
        started = time.perf_counter()
        self._training.step()
        synchronize(self._plain.device)
        ours = time.perf_counter() - started
        if not number % 2:
            plain, optimizer = self._training.do(self._plain.step)
        return ours, plain, optimizer


class _Plain:
    """The loop that one would write by hand; made and run in the thread that the runner is in."""

    def __init__(self, runner: PausingRunner, run: StageRun) -> None:
        self.device = runner.world.device.type
        batch = run.rows.batch(0, run.plan.rows_per_batch)
        chunks = micro_batches(batch, runner.micro_batch.rows)
        self._chunks = [chunk.to(runner.world.device) for chunk in chunks]
        self._count = batch.count
        self.tokens = batch.inputs.numel()
        self._model = copy.deepcopy(runner.model)
        members = runner.construct_optimizer(self._model, run).members
        self._optimizers = [member.optimizer for member in members]

    def step(self, runner: PausingRunner, run: StageRun) -> tuple[float, float]:
        """One step: its seconds, and those of the optimizers in it."""
        started = time.perf_counter()
        for chunk in self._chunks:
            with runner.precision.autocast():
                loss = self._model.loss(chunk)
            (loss.total / self._count).backward()
        synchronize(self.device)
        middle = time.perf_counter()
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        synchronize(self.device)
        ended = time.perf_counter()
        return ended - started, ended - middle
