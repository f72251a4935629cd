"""training: an experiment in training, a step at a time; times nothing.

lmkit's own `fit` runs, in a thread of its own, and waits after each step until it is told to go on:
what is timed from outside is what users get, data, checks and metrics included.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from lmkit.config import Experiment, load_experiment
from lmkit.train.evaluation import measure
from lmkit.train.learner import Step
from lmkit.train.objective import Stream
from lmkit.train.runner import BasicModelRunner, build_runner
from lmkit.train.stage_run import StageRun

T = TypeVar("T")
Work = Callable[["PausingRunner", StageRun], Any]


class Trainer(Protocol):
    """A model in training, lmkit's or a peer's."""

    def step(self) -> None:
        """One optimizer step on the next batch."""

    def bits_per_byte(self) -> float:
        """On the held-out rows."""

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""


class PausingRunner(BasicModelRunner):
    """A runner that waits after each step for what `told` says: work to do in between, or None to
    go on; `gave` then has what came of it."""

    def __init__(self, *, experiment: Experiment | None = None, **settings: Any) -> None:
        super().__init__(experiment=experiment, **settings)
        self.told: SimpleQueue[Work | None] = SimpleQueue()
        self.gave: SimpleQueue[Any] = SimpleQueue()
        self._begun = False

    def train_step(self, stream: Stream, run: StageRun) -> Step:
        """The runner's own step."""
        if not self._begun:
            self._begun = True
            self.gave.put(None)
            self._wait(run)
        step = super().train_step(stream, run)
        self.gave.put(None)
        self._wait(run)
        return step

    def _wait(self, run: StageRun) -> None:
        while (work := self.told.get()) is not None:
            self.gave.put(work(self, run))


class Training:
    """lmkit's Trainer.

    Args:
        table: the experiment, as `shapes.experiment` gives it.
        overrides: `model.depth=3` and the like.
    """

    def __init__(self, table: Mapping[str, Any], overrides: Sequence[str] = ()) -> None:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lmkit-benchmark-"))
            file = Path(folder, "experiment.yaml")
            file.write_text(json.dumps(table))  # JSON is YAML
            experiment = load_experiment(file, [f"out={folder}/run", *overrides])
            runner = build_runner(experiment)
            assert isinstance(runner, PausingRunner)
            self._runner = runner
            self._thread = threading.Thread(target=self._fit, daemon=True)
            self._thread.start()
            self._answer()
            self._stack = stack.pop_all()  # the folder goes when this is closed, or has failed

    def step(self) -> None:
        """One optimizer step on the next batch."""
        self._runner.told.put(None)
        self._answer()

    def do(self, work: Callable[[PausingRunner, StageRun], T]) -> T:
        """What `work` gives, done between two steps in the thread that steps."""
        self._runner.told.put(work)
        result: T = self._answer()
        return result

    def bits_per_byte(self) -> float:
        """On the stage's held-out rows, as an evaluation of the run measures it."""
        return self.do(_measure)

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""
        return self._runner.model.parameter_count()

    def close(self) -> None:
        """End the run where it stands, and remove its folder."""
        self._runner.told.put(_end)
        self._thread.join()
        self._stack.close()

    def _fit(self) -> None:
        try:
            self._runner.fit()
            self._runner.gave.put(RuntimeError("no step of the stage is left"))
        except _Ended:
            return
        except Exception as error:
            self._runner.gave.put(error)

    def _answer(self) -> Any:
        answer = self._runner.gave.get()
        if isinstance(answer, Exception):
            raise answer
        return answer


class _Ended(Exception):
    """The run is not to go on."""


def _end(runner: PausingRunner, run: StageRun) -> None:
    raise _Ended


def _measure(runner: PausingRunner, run: StageRun) -> float:
    found = measure(runner.model, run, runner.world, runner.precision, runner.micro_batch.rows)
    return found["bits_per_byte"]
