"""share: what lmkit adds to a step, and what its optimizers take of it.

Of a step of the runner, data, checks and metrics included, those parts are timed that any loop has:
the model forward and backward, and the optimizers' steps. What is left is the framework's, and so
is the making of the batch, though it is made in a thread beside the step before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.contest import Measure, load
from benchmarks.machine import synchronize
from benchmarks.training import PausingRunner, Training
from lmkit.train import accumulate
from lmkit.train.stage_run import StageRun

WARM_UP = 3  # steps
PARTS = ("model", "optimizers", "batch")


class Share:
    """An Entry: lmkit's steps; `more` has the medians of the shares, as fractions of 1.

    Args:
        trainer: lmkit's,
        arguments: and what that takes.
    """

    def __init__(self, trainer: str, arguments: Mapping[str, Any]) -> None:
        self._training: Training = load(trainer)(**arguments)
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._training.step()
        self._device, self._tokens = self._training.do(self._watch)
        for _ in range(WARM_UP):
            self._step()

    def round(self, seconds: float) -> Measure:
        """Steps for so long, two at least."""
        steps: list[tuple[float, float, float]] = []
        started = time.perf_counter()
        while time.perf_counter() - started < seconds or len(steps) < 2:
            steps.append(self._step())
        more = {
            "framework": statistics.median(framework / whole for whole, framework, _ in steps),
            "optimizers": statistics.median(optimizers / whole for whole, _, optimizers in steps),
        }
        return Measure(self._tokens * len(steps), sum(whole for whole, _, _ in steps), more)

    def close(self) -> None:
        """End the training."""
        self._training.close()

    def _step(self) -> tuple[float, float, float]:
        """Seconds of a step, of the framework in it, and of the optimizers."""
        self._spent.update(dict.fromkeys(PARTS, 0.0))
        started = time.perf_counter()
        self._training.step()
        synchronize(self._device)
        whole = time.perf_counter() - started
        model, optimizers, batch = (self._spent[part] for part in PARTS)
        return whole, whole - model - optimizers + batch, optimizers

    def _watch(self, runner: PausingRunner, run: StageRun) -> tuple[str, int]:
        """Time the parts from now on; done in the thread that the runner is in."""
        device = runner.world.device.type
        assert runner.optimizers is not None

        def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
            waits = "cpu" if part == "batch" else device  # another thread makes it, on the CPU

            def do(*arguments: Any, **keywords: Any) -> Any:
                synchronize(waits)
                started = time.perf_counter()
                found = work(*arguments, **keywords)
                synchronize(waits)
                self._spent[part] += time.perf_counter() - started
                return found

            return do

        accumulate.backward = timed("model", accumulate.backward)
        for member in runner.optimizers.members:
            step = timed("optimizers", member.optimizer.step)
            member.optimizer.step = step  # type: ignore[method-assign]
        run.rows.batch = timed("batch", run.rows.batch)  # type: ignore[method-assign]
        return device, run.plan.batch_tokens
