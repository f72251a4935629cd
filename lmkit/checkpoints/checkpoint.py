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

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.checkpoints.contents import (
    EXPERIMENT,
    MODEL,
    NAME,
    OPTIMIZER,
    STATE,
    TRAINED,
    CheckpointContents,
    Snapshot,
    checkpoint_bytes,
)
from lmkit.checkpoints.durable import clean_leftovers, remove_folder, require_room, require_space
from lmkit.checkpoints.keeping import KeepRules
from lmkit.checkpoints.manifest import Manifest, read_json
from lmkit.checkpoints.same_ids import refuse_other_ids
from lmkit.checkpoints.second_place import SecondPlace
from lmkit.checkpoints.weights import load_into, read_fitting, read_tensors
from lmkit.errors import CheckpointError
from lmkit.model import LMBase
from lmkit.text import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from lmkit.optim import OptimizerSet

__all__ = ["Checkpoint", "CheckpointContents", "CheckpointDir", "checkpoint_bytes"]

logger = logging.getLogger(__name__)
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


class CheckpointDir:
    """The checkpoints of one run.

    Kept are those that KeepRules name; another one goes only when its successor is on the disk.
    What counts as kept was read back: the last good one stays whatever becomes of those after it.

    Args:
        folder: holds checkpoints and nothing else.
        keep: at least 2: the newest may turn out damaged.
        best: the metric of each stage that has one, as `Best.of` reads it.
        copies: the second place, which gets a copy of each in the background.
    """

    def __init__(
        self,
        folder: str | Path,
        keep: int = 2,
        best: Mapping[str, str | None] | None = None,
        copies: SecondPlace | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.rules = KeepRules.of(keep, best or {})
        self.copies = copies
        self._good: dict[Path, bool] = {}  # a checkpoint is read back once, not at every save

    def prepare(self, n_bytes: int = 0) -> None:
        """Before a run begins: make the folder, clear what a kill left, see that `n_bytes` fit in,
        and where no checkpoint is good fetch those that the second place has.

        Raises:
            StorageError: too little room, no permission, or the second place does not answer.
            CheckpointError: the second place has some and none is good.
        """
        require_space(self.folder, n_bytes)
        clean_leftovers(self.folder)
        if self.copies is not None:
            self.copies.open()
            if not any(map(self._is_good, reversed(self.entries()))):
                self.copies.fetch(self.folder)
                self._good.clear()

    def save(self, contents: CheckpointContents) -> Path:
        """`put` all of it as it is now."""
        return self.put(contents.snapshot(number=self.next_number()))

    def next_number(self) -> int:
        """The number of the checkpoint that is saved next."""
        return 1 + max((_order(entry)[1] for entry in self.entries()), default=0)

    def put(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint, delete those that need not be kept, have the others copied.

        Raises:
            StorageError: the disk is too full, or refuses; all older checkpoints are still there.
        """
        require_room(self.folder, snapshot.n_bytes)
        location = self.folder / snapshot.name
        snapshot.put(location)
        self._good.pop(location, None)  # of one that it replaced
        self.prune()
        return location

    def close(self) -> None:
        """Have copied what the second place lacks; wait for it, and tell where that failed."""
        if self.copies is not None:
            self.prune()
            self.copies.close()

    def entries(self) -> list[Checkpoint]:
        """All checkpoints, good or bad, oldest first; sorted as numbers: 9 comes before 10."""
        if not self.folder.is_dir():
            return []
        found = [
            Checkpoint(path)
            for path in self.folder.iterdir()
            if NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        ]
        return sorted(found, key=_order)

    def latest(self, *, for_inference: bool = False) -> Checkpoint | None:
        """The newest checkpoint that is as it was written; None where there never was one.

        A bad one is passed over with a warning that says what is wrong with it. Nothing is deleted.

        Raises:
            CheckpointError: there are some and all are bad.
        """
        reasons = []
        for entry in reversed(self.entries()):
            try:
                entry.check(for_inference=for_inference)
            except CheckpointError as error:
                reasons.append(str(error))
                continue
            for reason in reasons:
                logger.warning("%s; going back to %s", reason, entry.name)
            return entry
        if not reasons:
            return None
        raise CheckpointError(
            f"no checkpoint is good: {'; '.join(reasons)}",
            hint="restore one from a backup, or delete the folder to begin anew",
            at=self.folder,
        )

    def best_entry(self, stage: str) -> Checkpoint | None:
        """The best good one of a stage; None if it names no metric, or none was measured."""
        return self.rules.best_of(stage, self._whole(), self._is_good)

    def is_best(self, stage: str, metrics: Mapping[str, float]) -> bool:
        """Whether no checkpoint of the stage is as good; always False if it names no metric.

        Raises:
            ConfigError: its metric is not among the metrics.
        """
        return self.rules.is_best(stage, metrics, self._whole(), self._is_good)

    def prune(self, *, dry: bool = False) -> list[Checkpoint]:
        """Delete what need not be kept, have the others copied; gives back the former, as `dry`
        does, which does no more."""
        whole = self._whole()
        kept = self.rules.staying(whole, self._is_good)
        doomed = [e for e in whole if e.name not in kept and self._good.get(e.folder, True)]
        for entry in [] if dry else doomed:
            if self.copies is None or self.copies.let_go(entry.folder):
                remove_folder(entry.folder)
        if self.copies is not None and not dry:
            self.copies.offer([e.folder for e in whole if e.name in kept], self.rules)
        return doomed

    def _whole(self) -> list[Checkpoint]:
        return [entry for entry in self.entries() if entry.is_whole()]

    def _is_good(self, entry: Checkpoint) -> bool:
        """Whether all its files are as they were written; one that is not is told of, and stays."""
        if entry.folder not in self._good:
            try:
                entry.check()
                self._good[entry.folder] = True
            except CheckpointError as error:
                logger.warning("%s; it stays, and does not count as kept", error)
                self._good[entry.folder] = False
        return self._good[entry.folder]


def _order(entry: Checkpoint) -> tuple[int, int]:
    """By step; of two stages that met at one step, the one saved later."""
    try:
        number = entry.number
    except CheckpointError:
        number = 0
    return int(entry.folder.name.partition("-")[0]), number
