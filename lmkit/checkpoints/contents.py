"""contents: what a checkpoint holds, and how it gets to the disk; knows nothing of older ones."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lmkit.checkpoints.durable import staged_folder, storage_errors
from lmkit.checkpoints.environment import describe_environment
from lmkit.checkpoints.manifest import MANIFEST, Manifest
from lmkit.checkpoints.plugin_code import class_path, write_code
from lmkit.checkpoints.record import write_file
from lmkit.checkpoints.weights import untie, write_tensors
from lmkit.config.registry import resolve
from lmkit.errors import CheckpointError
from lmkit.model import LMBase
from lmkit.text import Tokenizer

if TYPE_CHECKING:
    from lmkit.optim import OptimizerSet
    from lmkit.optim.optimizers import OptimizerState

logger = logging.getLogger(__name__)

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
TRAINED = "trained.safetensors"
STATE = "state.json"
EXPERIMENT = "experiment.json"
ENVIRONMENT = "environment.json"
NAME = re.compile(r"(\d+)-.+")  # of a checkpoint's folder: the step, the stage
INFERENCE_KEYS = ("name", "imports", "model")  # of an experiment

Tensors = Mapping[str, Mapping[str, Tensor]]  # file name -> tensor name -> tensor


def folder_name(step: int, stage: str) -> str:
    """What the checkpoint of a step is called among those of a run."""
    stage = re.sub(r"[^\w.-]", "_", stage) or "run"
    return f"{step:08d}-{stage}"


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds at one moment, on its way to the disk.

    Attributes:
        tensors: the model's own, or copies of them; see `CheckpointContents.snapshot`.
        texts: file name -> JSON.
        experiment: names the classes whose code is kept.
    """

    step: int
    stage: str
    tensors: Tensors
    texts: Mapping[str, str]
    tokenizer: Tokenizer | None
    experiment: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What its folder is called among the checkpoints of a run."""
        return folder_name(self.step, self.stage)

    @property
    def n_bytes(self) -> int:
        """Of the tensors and texts: the folder's size but for the tokenizer and the code."""
        tensors = [t for named in self.tensors.values() for t in untie(named)[0].values()]
        return sum(t.nbytes for t in tensors) + sum(map(len, self.texts.values()))

    def put(self, location: Path) -> None:
        """Write the folder, without asking what is there.

        Raises:
            StorageError: the disk refuses; what was there before is still there.
            CheckpointError: a tensor is of a kind that no file can hold.
        """
        with staged_folder(location) as folder:
            known = {}
            for file, named in self.tensors.items():
                known[file] = write_tensors(folder / file, named)
            for file, text in self.texts.items():
                known[file] = write_file(folder / file, [text.encode()])
            if self.tokenizer is not None:
                for file, content in _files_of(self.tokenizer).items():
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    known[file] = write_file(folder / file, [content])
            write_code(folder, self.experiment)
            Manifest.write(folder, known)


@dataclass(frozen=True)
class CheckpointContents:
    """All that a checkpoint holds, before it is on the disk.

    Attributes:
        optimizers: None where there is nothing to go on with.
        weights: by name, put together from all ranks; None where the model itself has them whole.
        trained: the same that training goes on with, where `weights` are an average of them.
        state: the runner's own, as JSON can hold it (or Python's: NaN stays NaN).
        experiment: `Experiment.to_dict()`; for a model made by hand it may lack `model`, which is
            then taken from the model itself.
        step: optimizer steps since the run began.
        metrics: of the last evaluation; `CheckpointDir.best` looks here.
        stays: never deleted to make room for later ones.
    """

    model: LMBase
    optimizers: OptimizerSet | OptimizerState | None = None
    weights: Mapping[str, Tensor] | None = None
    trained: Mapping[str, Tensor] | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    experiment: Mapping[str, Any] = field(default_factory=dict)
    stage: str = ""
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    stays: bool = False

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
        self.snapshot(number=0, for_inference=for_inference).put(location)
        return location

    def snapshot(
        self,
        *,
        number: int,
        for_inference: bool = False,
        copy: Callable[[Tensors], Tensors] = lambda tensors: tensors,
    ) -> Snapshot:
        """All of it as it is now.

        Args:
            number: orders the checkpoints of a run.
            copy: copies the tensors, so that training can go on before they are written; as it is,
                the snapshot holds the model's own.

        Raises:
            CheckpointError: JSON cannot hold a value.
        """
        optimizers = None if for_inference else self.optimizers
        experiment = self._experiment(for_inference)
        state = {
            "step": self.step,
            "stage": self.stage,
            "number": number,
            "metrics": {key: _finite(value) for key, value in self.metrics.items()},
            "stays": self.stays,
            "runner": {} if for_inference else self.state,
            "optimizers": None if optimizers is None else optimizers.state_meta(),
        }
        weights = self.model.state_dict() if self.weights is None else self.weights
        tensors: dict[str, Mapping[str, Tensor]] = {MODEL: weights}
        if optimizers is not None:
            tensors[OPTIMIZER] = optimizers.state_tensors()
        if self.trained is not None and not for_inference:
            tensors[TRAINED] = self.trained
        return Snapshot(
            self.step,
            self.stage,
            copy(tensors),
            {
                STATE: _json(STATE, state),
                EXPERIMENT: _json(EXPERIMENT, experiment),
                ENVIRONMENT: _json(ENVIRONMENT, describe_environment()),
            },
            self.model.tokenizer,
            experiment,
        )

    def _experiment(self, for_inference: bool) -> dict[str, Any]:
        experiment = with_model(self.experiment, self.model)
        if for_inference:
            return {key: experiment[key] for key in INFERENCE_KEYS if key in experiment}
        return experiment


def with_model(experiment: Mapping[str, Any], model: LMBase) -> dict[str, Any]:
    """An experiment that names every argument of its model, so that a default which changes later
    changes no model that there is. What JSON cannot hold was given by the experiment anyway, and a
    function that makes a model has arguments of its own."""
    given = experiment.get("model")
    if given is None:
        return {**experiment, "model": model_spec(model)}
    if resolve(given["class"]) is not type(model):
        return dict(experiment)
    rest = {name: value for name, value in model.init_kwargs.items() if name not in given}
    plain = {name: value for name, value in rest.items() if _is_plain(value)}
    return {**experiment, "model": {**given, **plain}}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


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


def _files_of(tokenizer: Tokenizer) -> dict[str, bytes]:
    """What a tokenizer saves, by its path in the checkpoint: written aside and read, as a class of
    anybody's writes as it likes, and what reaches the checkpoint goes through `disk`."""
    with TemporaryDirectory() as aside:
        tokenizer.save(aside)
        found = sorted(path for path in Path(aside).rglob("*") if path.is_file())
        names = [path.relative_to(aside).as_posix() for path in found]
        return {f"tokenizer/{name}": Path(aside, name).read_bytes() for name in names}


def _json(file: str, content: Mapping[str, Any]) -> str:
    try:
        return json.dumps(content, indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be written: {error}", hint="keep plain numbers and text there"
        ) from error


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
