"""overhead: what lmkit adds to a step: `train_step` against a plain PyTorch loop over its model.

    python benchmarks/overhead.py [EXPERIMENT] [--steps 40]

Both train a copy of one model with the same optimizers, precision and batch shape, in turns, so
that a machine that slows down slows both. The plain loop has its batch ready in memory, checks
nothing and records nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time

import torch

from lmkit.config import load_experiment
from lmkit.data import BatchStream
from lmkit.train.learner import Step
from lmkit.train.runner import BasicModelRunner
from lmkit.train.stage_run import StageRun

WARM_UP = 3  # steps not counted: the first ones allocate


class Contest(BasicModelRunner):
    """A runner that lets a plain loop step after each of its own steps."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.ours: list[float] = []
        self.plain: list[float] = []
        self.tokens = 0

    def train_step(self, stream: BatchStream, run: StageRun) -> Step:
        """lmkit's step, then the plain one, each timed."""
        if not self.plain:
            self._make_plain(run)
        started = time.perf_counter()
        step = super().train_step(stream, run)
        between = time.perf_counter()
        self._plain_step()
        self.ours.append(between - started)
        self.plain.append(time.perf_counter() - between)
        return step

    def _make_plain(self, run: StageRun) -> None:
        self.tokens = run.plan.batch_tokens
        self._batch = run.first_batch(self.world).to(self.world.device)
        self._model = copy.deepcopy(self.model)
        members = self.construct_optimizer(self._model, run).members
        self._optimizers = [member.optimizer for member in members]

    def _plain_step(self) -> None:
        with self.precision.autocast():
            loss = self._model.loss(self._batch)
        (loss.total / loss.count).backward()
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def main() -> None:
    """Print the medians and the ratio, and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", nargs="?", default="experiments/quickstart.yaml")
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        wanted = [f"out={out}", f"stages.0.steps={arguments.steps + WARM_UP}"]
        quiet = ["stages.0.evaluate.bits_per_byte=false", "stages.0.evaluate.samples=[]"]
        contest = Contest(experiment=load_experiment(arguments.experiment, [*wanted, *quiet]))
        contest.fit()
    pairs = list(zip(contest.ours, contest.plain, strict=True))[WARM_UP:]
    ours, plain = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"lmkit       {contest.tokens / ours:10,.0f} tokens/s")
    print(f"plain loop  {contest.tokens / plain:10,.0f} tokens/s")
    print(f"time lmkit / plain loop: {ratio:.3f} (median of {len(pairs)} pairs)")
    figures = {"lmkit": ours, "plain": plain, "ratio": ratio, "threads": torch.get_num_threads()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
