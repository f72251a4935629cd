"""rows: the batches that lmkit trains on, in a file, so that every peer reads the same ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

UNCOUNTED = -1  # a target that weighs nothing; what both peers' losses leave out


@dataclass(frozen=True)
class Rows:
    """What is trained on and what is held out.

    Attributes:
        inputs: (R, T) int32, in the order of training.
        targets: (R, T) int32; UNCOUNTED where the weight is 0.
        held_inputs: (H, T) int32.
        held_targets: (H, T) int32; UNCOUNTED where no byte of text stands behind it.
        held_bytes: UTF-8 bytes of the counted targets.
    """

    inputs: np.ndarray
    targets: np.ndarray
    held_inputs: np.ndarray
    held_targets: np.ndarray
    held_bytes: int

    @classmethod
    def read(cls, file: str | Path) -> Rows:
        """What `save` wrote."""
        with np.load(file) as found:
            arrays = {name: found[name] for name in found.files}
        return cls(**{**arrays, "held_bytes": int(arrays["held_bytes"])})

    def save(self, file: str | Path) -> None:
        """Write a .npz."""
        np.savez(file, **vars(self))

    def bits_per_byte(self, nats: float) -> float:
        """From the summed loss of all counted held-out targets."""
        return nats / math.log(2) / self.held_bytes


def lay_out(table: Mapping[str, Any], steps: int) -> Rows:
    """The rows of the first `steps` steps of an experiment's only stage, and its held-out ones.

    Args:
        table: the experiment, as `shapes.experiment` gives it.
    """
    import torch

    from lmkit.config import Experiment, build
    from lmkit.ranks.world import World
    from lmkit.train.loading import build_model
    from lmkit.train.objective import open_objective
    from lmkit.train.stage_run import StageRun

    experiment = Experiment.from_dict(json.loads(json.dumps(table)), folder=Path.cwd())
    model = build_model(experiment.model, build(experiment.tokenizer, folder=experiment.folder))
    stage = experiment.stages[0]
    data = open_objective(stage, experiment.folder).prepare(experiment, stage, model)
    run = StageRun.open(experiment, 0, data, model)
    token_bytes = torch.from_numpy(model.need_tokenizer().token_bytes)

    trained = run.rows.batch(0, steps * run.plan.rows_per_batch)
    held = list(run.validation_batches(World(0, 1, torch.device("cpu")), 64) or ())
    held_inputs = torch.cat([batch.inputs for batch in held])
    held_targets = torch.cat([batch.targets for batch in held])
    weights = torch.cat([batch.weights for batch in held])
    counted = (weights != 0) & (token_bytes[held_targets] > 0)
    return Rows(
        inputs=_narrow(trained.inputs),
        targets=_narrow(trained.targets.masked_fill(trained.weights == 0, UNCOUNTED)),
        held_inputs=_narrow(held_inputs),
        held_targets=_narrow(held_targets.masked_fill(~counted, UNCOUNTED)),
        held_bytes=int(token_bytes[held_targets][counted].sum()),
    )


def _narrow(tokens: Any) -> np.ndarray:
    array: np.ndarray = tokens.numpy().astype(np.int32)
    return array
