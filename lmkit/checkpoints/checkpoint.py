"""checkpoint: a folder that alone rebuilds the model, or goes on with the run bit for bit.

    <step>-<stage>/   model.safetensors      weights, tied ones once
                      optimizer.safetensors  state by parameter name (not in a folder for inference)
                      state.json             what the runner counts; the optimizers' settings
                      experiment.json        the resolved experiment
                      environment.json       what it was made with
                      tokenizer/  code/      the tokenizer; the user's own modules
                      manifest.json          size and sha256 of each of these

There is no pickle in it, and no file of it is ever written twice.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.checkpoints.best import Best
from lmkit.checkpoints.contents import (
    EXPERIMENT,
    MODEL,
    OPTIMIZER,
    STATE,
    CheckpointContents,
    Snapshot,
    checkpoint_bytes,
)
from lmkit.checkpoints.durable import clean_leftovers, remove_folder, require_room, require_space
from lmkit.checkpoints.manifest import Manifest, read_json
from lmkit.checkpoints.weights import load_into, read_fitting, read_tensors
from lmkit.errors import CheckpointError, ConfigError
from lmkit.model import LMBase
from lmkit.text import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from lmkit.optim import OptimizerSet

__all__ = ["Checkpoint", "CheckpointContents", "CheckpointDir", "checkpoint_bytes"]

logger = logging.getLogger(__name__)

NEEDED = (MODEL, STATE, EXPERIMENT)
NAME = re.compile(r"(\d+)-.+")


class Checkpoint:
    """A checkpoint on the disk. Nothing is read before it is asked for.

    Every property and method raises CheckpointError where a file is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r})"

    @cached_property
    def manifest(self) -> Manifest:
        """The list of files; names none outside the folder."""
        return Manifest.read(self.folder)

    @cached_property
    def _saved(self) -> dict[str, Any]:
        saved = read_json(self.folder, STATE)
        for key in ("step", "stage", "number", "metrics", "runner", "optimizers"):
            if key not in saved:
                raise CheckpointError(f"{STATE} lacks {key!r}", at=self.folder)
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
            for_inference: leave out the sha256 of the optimizers' state, two thirds of all bytes.

        Raises:
            CheckpointError: says which file is missing, cut or altered.
        """
        for name in NEEDED:
            if name not in self.manifest.files:
                raise CheckpointError(f"{name} is missing from the manifest", at=self.folder)
        self.manifest.check(skip=(OPTIMIZER,) if for_inference else ())

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
        """Make sure that the model's ids mean what they meant to these weights.

        Conversations may be laid out otherwise: a model can be taught another chat template.

        Args:
            same_chat: refuse that too; for a run that goes on, whose file may have been altered.
        """
        saved = self.tokenizer()
        own = model.tokenizer
        if saved is None or own is None:
            return
        if saved.text_fingerprint != own.text_fingerprint:
            raise CheckpointError(
                f"its tokenizer ({saved.vocab_size:,} ids) is not the experiment's "
                f"({own.vocab_size:,}): the same id would mean other text",
                hint=f"tokenizer: {{class: lmkit.text.tokenizer.Tiktoken, "
                f"ranks: {self.folder / 'tokenizer'}}}",
                at=self.folder,
            )
        if same_chat and saved.chat != own.chat:
            raise CheckpointError(
                f"its chat template is not the experiment's, {own.chat.at}",
                hint="put the template back, or start another run from this with init_from",
                at=self.folder,
            )

    def check_weights(self, model: LMBase) -> None:
        """Make sure that `load_weights` would succeed; changes nothing."""
        self.check_tokenizer(model)
        read_fitting(model, self.folder / MODEL)

    def load_weights(self, model: LMBase, **how: bool) -> None:
        """Copy the weights into `model`; `how` (adopt_dtypes, mapped) as `load_into` takes it."""
        self.check_tokenizer(model)
        load_into(model, self.folder / MODEL, **how)

    def load_optimizers(self, optimizers: OptimizerSet) -> None:
        """Give the optimizers their state, by parameter name."""
        if not self.has_optimizers:
            raise CheckpointError(
                "holds no optimizer state, it was written for inference",
                hint="start a stage from it with init_from",
                at=self.folder,
            )
        # clones: the file may be deleted by and by, and must not stay mapped until the run ends
        tensors = {name: t.clone() for name, t in read_tensors(self.folder / OPTIMIZER).items()}
        optimizers.load(tensors, self._saved["optimizers"])


class CheckpointDir:
    """The checkpoints of one run.

    Kept are the last `keep`, the last one of every stage, and the best of every stage that names a
    metric; an older one goes only when its successor is on the disk. What counts as kept was read
    back and is as it was written, so the last good one stays whatever becomes of those after it.

    Args:
        folder: holds checkpoints and nothing else.
        keep: at least 2: the newest may turn out damaged.
        best: the metric of each stage that has one, as `Best.of` reads it.
    """

    def __init__(
        self, folder: str | Path, keep: int = 2, best: Mapping[str, str | None] | None = None
    ) -> None:
        if keep < 2:
            raise ConfigError(
                f"keep: {keep} is too few", hint="2 or more: the newest may be damaged"
            )
        self.folder = Path(folder)
        self.keep = keep
        self.best = {stage: Best.of(text) for stage, text in (best or {}).items() if text}
        self._good: dict[Path, bool] = {}  # a checkpoint is read back once, not at every save

    def prepare(self, n_bytes: int = 0) -> None:
        """Before a run begins: make the folder, clear what a kill left, see that `n_bytes` fit in.

        Raises:
            StorageError: too little room, or no permission.
        """
        require_space(self.folder, n_bytes)
        clean_leftovers(self.folder)

    def save(self, contents: CheckpointContents) -> Path:
        """`put` all of it as it is now."""
        return self.put(contents.snapshot(number=self.next_number()))

    def next_number(self) -> int:
        """The number of the checkpoint that is saved next."""
        return 1 + max((_order(entry)[1] for entry in self.entries()), default=0)

    def put(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint, then delete those that need not be kept.

        Raises:
            StorageError: the disk is too full, or refuses; all older checkpoints are still there.
        """
        require_room(self.folder, snapshot.n_bytes)
        location = self.folder / snapshot.name
        snapshot.put(location)
        self._good.pop(location, None)  # of one that it replaced
        self._prune()
        return location

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
                logger.warning("%s; going back to %s", reason, entry.folder.name)
            return entry
        if not reasons:
            return None
        raise CheckpointError(
            f"no checkpoint is good: {'; '.join(reasons)}",
            hint="restore one from a backup, or delete the folder to begin anew",
            at=self.folder,
        )

    def best_entry(self, stage: str) -> Checkpoint | None:
        """The best good checkpoint of a stage; None if the stage names no metric, or none was
        measured."""
        best = self.best.get(stage)
        if best is None:
            return None
        own = [entry for entry in self.entries() if entry.is_whole() and entry.stage == stage]
        ranks = [(rank, entry) for entry in own if (rank := best.rank(entry.metrics)) is not None]
        ranked = sorted(ranks, key=lambda pair: pair[0])
        return next((entry for _, entry in ranked if self._is_good(entry)), None)

    def is_best(self, stage: str, metrics: Mapping[str, float]) -> bool:
        """Whether no checkpoint of the stage is as good; always False if it names no metric.

        Raises:
            ConfigError: its metric is not among the metrics.
        """
        best = self.best.get(stage)
        if best is None:
            return False
        rank = best.rank(metrics)
        if rank is None:
            raise ConfigError(f"no best to keep: {best.metric!r} was not measured")
        entry = self.best_entry(stage)
        known = best.rank(entry.metrics) if entry else None
        return known is None or rank < known

    def _prune(self) -> None:
        whole = [entry for entry in self.entries() if entry.is_whole()]
        kept = list(islice(filter(self._is_good, reversed(whole)), self.keep))
        for stage in {entry.stage for entry in whole}:
            own = (entry for entry in reversed(whole) if entry.stage == stage)
            kept += list(islice(filter(self._is_good, own), 1))
            kept += [best] if (best := self.best_entry(stage)) else []
        stay = {entry.folder for entry in kept}
        for entry in whole:
            if entry.folder not in stay and self._good.get(entry.folder, True):
                remove_folder(entry.folder)

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
