"""run_history: a run's folder read back as plain data; judges nothing and draws nothing."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.checkpoints.contents import EXPERIMENT, MODEL, OPTIMIZER
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.manifest import read_json
from lmkit.errors import CheckpointError, DataError
from lmkit.train.loading import RUN_CHECKPOINTS
from lmkit.train.metrics import FILE
from lmkit.train.metrics_file import read_metrics

logger = logging.getLogger(__name__)

LAST = 10  # steps that a final value is averaged over, as in the table at a run's end
VALIDATION = "validation_"
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Sample:
    """What the model wrote after a prompt, at a step of a stage."""

    stage: str
    step: int
    prompt: str
    text: str


@dataclass
class StageHistory:
    """A stage as far as it has come.

    Attributes:
        first, last: its steps, counted since the run began.
        seconds: of its steps,
        evaluating: and of its evaluations; checkpoints come on top.
        waited: of them, for data.
        not_finite: steps whose loss was none.
        series: (step, value) of all that is measured at a step, by name.
        evaluations: the same of what is measured on held-out data, without its `validation_`.
    """

    name: str
    first: int = 0
    last: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluating: float = 0.0
    waited: float = 0.0
    not_finite: int = 0
    series: dict[str, Points] = field(default_factory=dict)
    evaluations: dict[str, Points] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Count a line of metrics.jsonl."""
        step = entry["step"]
        if "seconds" in entry:  # a line of an evaluation alone is no step
            self.first = self.first or step
            self.steps += 1
            self.tokens += entry.get("tokens", 0)
            self.seconds += entry["seconds"]
            self.waited += entry.get("waited", 0.0)
            self.not_finite += entry.get("loss", 0.0) is None
            if entry["seconds"] > 0 and entry.get("tokens"):
                pace = entry["tokens"] / entry["seconds"]
                self.series.setdefault("tokens_per_second", []).append((step, pace))
        self.last = max(self.last, step)
        self.evaluating += entry.get("evaluation_seconds", 0.0)
        for key, value in entry.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or key in COUNTED:
                continue
            held_out = key.startswith(VALIDATION)
            kept = self.evaluations if held_out else self.series
            kept.setdefault(key.removeprefix(VALIDATION), []).append((step, float(value)))
        for prompt, text in entry.get("samples", ()):
            self.samples.append(Sample(self.name, step, str(prompt), str(text)))

    @property
    def rewarded(self) -> bool:
        """Whether answers were rewarded: what stands as their loss tells nothing."""
        return "reward" in self.series

    def final(self, name: str) -> float | None:
        """The mean of a series over the last ten steps."""
        values = [value for _, value in self.series.get(name, ())[-LAST:]]
        return sum(values) / len(values) if values else None

    def measured(self, name: str) -> float | None:
        """The last evaluation's value."""
        points = self.evaluations.get(name)
        return points[-1][1] if points else None


# sums tell more of these than curves
COUNTED = ("step", "tokens", "seconds", "evaluation_seconds", "waited")


@dataclass(frozen=True)
class Saved:
    """What a stage's last checkpoint tells.

    Attributes:
        weights, optimizers: their bytes.
        micro_batch: rows that go through the model at once.
        precision: what the model computes in.
        environment: as `lmkit.checkpoints.environment` describes it.
    """

    weights: int
    optimizers: int
    micro_batch: int | None
    precision: str
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class RunHistory:
    """A run so far.

    Attributes:
        experiment: resolved, every key with its value.
        saved: by stage; without those that have no readable checkpoint.
        parameters: of the newest checkpoint, tied ones counted once; None without one.
    """

    folder: Path
    experiment: Mapping[str, Any]
    stages: tuple[StageHistory, ...]
    saved: Mapping[str, Saved]
    parameters: int | None

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.experiment.get("name", self.folder.name))

    @property
    def seconds(self) -> float:
        """Of all steps, evaluations not included."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def evaluating(self) -> float:
        """Seconds of all evaluations."""
        return sum(stage.evaluating for stage in self.stages)

    @property
    def tokens(self) -> int:
        """Of all steps."""
        return sum(stage.tokens for stage in self.stages)

    @property
    def environment(self) -> Mapping[str, Any]:
        """Of the newest checkpoint; empty without one."""
        return list(self.saved.values())[-1].environment if self.saved else {}


def read_run(folder: str | Path) -> RunHistory:
    """Read a run's folder; a run that is still going is as good as a finished one.

    Raises:
        DataError: it is no run's folder, or nothing was measured in it yet.
    """
    folder = Path(folder).expanduser()
    stages: dict[str, StageHistory] = {}
    for entry in read_metrics(folder / FILE):
        name = str(entry.get("stage", ""))
        stages.setdefault(name, StageHistory(name)).add(entry)
    if not stages:
        there = folder.is_dir()
        what = f"there is no {FILE} with a step in it" if there else "there is no such folder"
        raise DataError(what, hint="give a run's folder, such as runs/NAME", at=folder)
    checkpoints = list(_readable(CheckpointDir(folder / RUN_CHECKPOINTS).entries()))
    return RunHistory(
        folder,
        _experiment(folder),
        tuple(stages.values()),
        {checkpoint.stage: _saved(checkpoint) for checkpoint in checkpoints},
        _parameters(checkpoints[-1]) if checkpoints else None,
    )


def _experiment(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / EXPERIMENT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{EXPERIMENT} cannot be read: {error}", at=folder) from error


def _readable(checkpoints: Iterable[Checkpoint]) -> Iterable[Checkpoint]:
    """Those whose description is there; a broken one is told of."""
    for checkpoint in checkpoints:
        try:
            checkpoint.manifest.check(hashes=False)
            read_json(checkpoint.folder, "environment.json")
            yield checkpoint
        except CheckpointError as error:
            logger.warning("left out: %s", error)


def _saved(checkpoint: Checkpoint) -> Saved:
    files, state = checkpoint.manifest.files, checkpoint.state
    return Saved(
        weights=files[MODEL].size,
        optimizers=files[OPTIMIZER].size if OPTIMIZER in files else 0,
        micro_batch=state.get("micro_batch"),
        precision=str(state.get("precision", {}).get("name", "")),
        environment=read_json(checkpoint.folder, "environment.json"),
    )


def _parameters(checkpoint: Checkpoint) -> int:
    with safe_open(checkpoint.folder / MODEL, framework="pt") as file:  # reads the header only
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
