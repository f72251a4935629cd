"""checkpoint: a folder that alone rebuilds the model, or goes on with the run bit for bit.

    <step>-<stage>/   model.safetensors      weights, tied ones once
                      optimizer.safetensors  state by parameter name (not in a folder for inference)
                      trained.safetensors    weights to train on, where the others are an average
                      state.json             what the runner counts; the optimizers' settings
                      experiment.json        the resolved experiment
                      environment.json       what it was made with
                      tokenizer/  code/      the tokenizer; the user's own modules
                      manifest.json          size and sha256 of each of these

There is no pickle in it, and no file of it is ever written twice.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.checkpoints.contents import EXPERIMENT, MODEL, OPTIMIZER, STATE, TRAINED
from lmkit.checkpoints.manifest import Manifest, read_json
from lmkit.checkpoints.same_ids import refuse_other_ids
from lmkit.checkpoints.weights import load_into, read_fitting, read_tensors
from lmkit.errors import CheckpointError
from lmkit.model import LMBase
from lmkit.text import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from lmkit.optim import OptimizerSet

KEPT = {  # the keys of state.json, and what each holds
    "step": int, "stage": str, "number": int, "metrics": dict, "runner": dict,
    "optimizers": list | dict | None,
}  # fmt: skip


class Checkpoint:
    """A checkpoint on the disk. Nothing is read before it is asked for.

    Every property and method raises CheckpointError where a file is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r})"

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @cached_property
    def manifest(self) -> Manifest:
        """The list of files; names none outside the folder."""
        return Manifest.read(self.folder)

    @cached_property
    def _saved(self) -> dict[str, Any]:
        saved = read_json(self.folder, STATE)
        for key, kind in KEPT.items():
            if key not in saved:
                raise CheckpointError(f"{STATE} lacks {key!r}", at=self.folder)
            if not isinstance(saved[key], kind):
                raise CheckpointError(f"{STATE} is damaged at {key!r}", at=self.folder)
        return saved

    @property
    def step(self) -> int:
        """Optimizer steps since the run began."""
        return self._saved["step"]

    @property
    def stage(self) -> str:
        """The stage it was written in."""
        return self._saved["stage"]

    @property
    def number(self) -> int:
        """Grows by one with every checkpoint of a run: two stages may meet at one step."""
        return self._saved["number"]

    @property
    def metrics(self) -> dict[str, float | None]:
        """Of the last evaluation; None for what was not finite."""
        return self._saved["metrics"]

    @property
    def stays(self) -> bool:
        """Whether it was saved to stay, however many come after it."""
        return bool(self._saved.get("stays"))  # older checkpoints do not say

    @property
    def state(self) -> dict[str, Any]:
        """What the runner gave to keep."""
        return self._saved["runner"]

    @cached_property
    def experiment(self) -> dict[str, Any]:
        """The resolved experiment; at least `model`."""
        experiment = read_json(self.folder, EXPERIMENT)
        if not isinstance(experiment.get("model"), dict):
            raise CheckpointError(f"{EXPERIMENT} names no model", at=self.folder)
        return experiment

    @property
    def model_arguments(self) -> dict[str, Any]:
        """The arguments that the model was made with."""
        return {key: value for key, value in self.experiment["model"].items() if key != "class"}

    @property
    def has_optimizers(self) -> bool:
        """False for a folder that was written for inference."""
        return OPTIMIZER in self.manifest.files

    def check(self, *, for_inference: bool = False) -> None:
        """Make sure that every file is as it was written.

        Args:
            for_inference: leave out the sha256 of what only training needs, two thirds of all
                bytes.

        Raises:
            CheckpointError: says which file is missing, cut or altered.
        """
        for name in (MODEL, STATE, EXPERIMENT):
            if name not in self.manifest.files:
                raise CheckpointError(f"{name} is missing from the manifest", at=self.folder)
        self.manifest.check(skip=(OPTIMIZER, TRAINED) if for_inference else ())

    def is_whole(self) -> bool:
        """True when all files are there in their full size. A quick look, without the sha256."""
        try:
            self.manifest.check(hashes=False)
            return bool(self._saved)
        except CheckpointError:
            return False

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, the same one every time; None if the model had none."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        here = any(name.startswith("tokenizer/") for name in self.manifest.files)
        return load_tokenizer(self.folder / "tokenizer") if here else None

    def check_tokenizer(self, model: LMBase, *, same_chat: bool = False) -> None:
        """Make sure that the model's ids mean what they meant to these weights; with `same_chat`
        that conversations are laid out alike, too."""
        refuse_other_ids(self.tokenizer(), model.tokenizer, self.folder, same_chat=same_chat)

    def check_weights(self, model: LMBase) -> None:
        """Make sure that `load_weights` would succeed; changes nothing."""
        self.check_tokenizer(model)
        read_fitting(model, self.folder / MODEL)

    def load_weights(self, model: LMBase, **how: bool) -> None:
        """Copy the weights into `model`; `how` (adopt_dtypes, mapped) as `load_into` takes it."""
        self.check_tokenizer(model)
        load_into(model, self.folder / MODEL, **how)

    def load_trained(self, model: LMBase) -> None:
        """Where the weights are an average, give `model` those that training goes on with."""
        if TRAINED in self.manifest.files:
            load_into(model, self.folder / TRAINED)

    def load_optimizers(self, optimizers: OptimizerSet) -> None:
        """Give the optimizers their state, by parameter name."""
        if not self.has_optimizers:
            raise CheckpointError(
                "holds no optimizer state, it was written for inference",
                hint="start a stage from it with init_from",
                at=self.folder,
            )
        optimizers.load(read_tensors(self.folder / OPTIMIZER), self._saved["optimizers"])
