"""contents: what a checkpoint holds, and how it gets to the disk; knows nothing of older ones."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.errors import CheckpointError
from lmkit.model import LMBase
from lmkit.train.durable import staged_folder, storage_errors
from lmkit.train.environment import describe_environment
from lmkit.train.manifest import MANIFEST, Manifest
from lmkit.train.plugin_code import class_path, write_code
from lmkit.train.weights import write_tensors

if TYPE_CHECKING:
    from lmkit.optim import OptimizerSet

logger = logging.getLogger(__name__)

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
EXPERIMENT = "experiment.json"
INFERENCE_KEYS = ("name", "imports", "model")  # of an experiment


@dataclass(frozen=True)
class CheckpointContents:
    """All that a checkpoint holds, before it is on the disk.

    Attributes:
        optimizers: None where there is nothing to go on with.
        state: the runner's own, as JSON can hold it (or Python's: NaN stays NaN).
        experiment: `Experiment.to_dict()`; for a model made by hand it may lack `model`, which is
            then taken from the model itself.
        step: optimizer steps since the run began.
        metrics: of the last evaluation; `CheckpointDir.best` looks here.
    """

    model: LMBase
    optimizers: OptimizerSet | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    experiment: Mapping[str, Any] = field(default_factory=dict)
    stage: str = ""
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    def write(self, location: str | Path, *, for_inference: bool = False) -> Path:
        """Write a checkpoint folder; one that lies there is replaced.

        Args:
            for_inference: only weights, tokenizer, and what builds the model.

        Raises:
            StorageError: the disk refuses; what was there before is still there.
            CheckpointError: something else than a checkpoint is there, or JSON cannot hold a value.
        """
        location = Path(location)
        if location.exists() and not _is_replaceable(location):
            raise CheckpointError(
                "is no checkpoint to replace", hint="name a new folder", at=location
            )
        with storage_errors(location):
            location.parent.mkdir(parents=True, exist_ok=True)
        self.put(location, number=0, for_inference=for_inference)
        return location

    def put(self, location: Path, *, number: int, for_inference: bool = False) -> None:
        """`write` without asking what is there; `number` orders the checkpoints of a run."""
        optimizers = None if for_inference else self.optimizers
        experiment = self._experiment(for_inference)
        state = {
            "step": self.step,
            "stage": self.stage,
            "number": number,
            "metrics": {key: _finite(value) for key, value in self.metrics.items()},
            "runner": {} if for_inference else self.state,
            "optimizers": None if optimizers is None else optimizers.state_meta(),
        }
        with staged_folder(location) as folder:
            write_tensors(folder / MODEL, self.model.state_dict())
            if optimizers is not None:
                write_tensors(folder / OPTIMIZER, optimizers.state_tensors())
            _write_json(folder / STATE, state)
            _write_json(folder / EXPERIMENT, experiment)
            _write_json(folder / "environment.json", describe_environment())
            if self.model.tokenizer is not None:
                (folder / "tokenizer").mkdir()
                self.model.tokenizer.save(folder / "tokenizer")
            write_code(folder, experiment)
            Manifest.write(folder)

    def _experiment(self, for_inference: bool) -> dict[str, Any]:
        experiment = dict(self.experiment)
        if "model" not in experiment:
            experiment["model"] = model_spec(self.model)
        if for_inference:
            return {key: experiment[key] for key in INFERENCE_KEYS if key in experiment}
        return experiment


def model_spec(model: LMBase) -> dict[str, Any]:
    """`{class: module.Class, **arguments}` of a model that was made by hand, with its defaults."""
    path = class_path(type(model))
    if "<locals>" in path:
        logger.warning("%s is defined inside a function: load_model will not find it", path)
    return {"class": path, **model.init_kwargs}


def checkpoint_bytes(model: LMBase, moments: int = 2) -> int:
    """Bytes a checkpoint will need: the weights, and `moments` fp32 numbers a trained parameter."""
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return weights + 4 * moments * trained + (1 << 20)


def _is_replaceable(location: Path) -> bool:
    if not location.is_dir():
        return False
    return (location / MANIFEST).exists() or not any(location.iterdir())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(content, indent=2)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} cannot be written: {error}", hint="keep plain numbers and text there"
        ) from error
    path.write_text(text + "\n", encoding="utf-8")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
