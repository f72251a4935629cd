"""replaying: a step that was not taken, run again from what was kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.manifest import MANIFEST
from lmkit.errors import CheckpointError
from lmkit.model import Loss
from lmkit.ranks.world import World
from lmkit.train.accumulate import LossModule, accumulate
from lmkit.train.anomaly import mean_of
from lmkit.train.diagnosis import Case, find_origin
from lmkit.train.loading import RUN_CHECKPOINTS, load_model
from lmkit.train.precision import Precision


@dataclass(frozen=True)
class Replay:
    """What came of it.

    Attributes:
        weights: the folder they were read from.
        loss: nats a token.
        origin: where the first number that is not finite came up; empty if all are.
    """

    weights: Path
    loss: float
    origin: str


def replay(case: Case, device: torch.device, *, trust_code: bool = False) -> Replay:
    """Run the batch of a case forward and backward, by the weights, the random numbers, the
    precision and the micro-batch of then.

    Where the case has no weights of its own, those of the last checkpoint before it are taken.

    Raises:
        CheckpointError: there are none, or as `load_model`.
    """
    report = case.report
    weights = _weights(case)
    model = load_model(weights, device, trust_code).train(report["dropout"])
    precision = Precision(report["precision"], device)
    precision.prepare(model)
    losses: list[Loss] = []

    def work() -> None:
        loss = accumulate(
            LossModule(model),
            case.batch,
            micro_batch=report["micro_batch"],
            world=World(report["rank"], 1, device),
            precision=precision,
            seed=report["seed"],
        )
        losses.append(loss)

    origin = find_origin(model, work)
    return Replay(weights, mean_of(losses[0]), origin)


def _weights(case: Case) -> Path:
    if (case.folder / MANIFEST).exists():
        return case.folder
    run = case.folder.parent / RUN_CHECKPOINTS
    before = [e for e in CheckpointDir(run).entries() if e.is_whole() and e.step < case.step]
    if not before:
        raise CheckpointError("no weights are here, nor a checkpoint before it", at=case.folder)
    return before[-1].folder
