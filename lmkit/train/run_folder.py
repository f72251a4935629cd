"""run_folder: one run's place on disk, and the decision what a new start in it may do.

runs/NAME/experiment.json    the resolved experiment
          checkpoints/       a folder a checkpoint
          metrics.jsonl      a line a step
          rows-STAGE         how many go through the model at once, where one of several ranks ran
                             out of memory
          tensorboard/
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.checkpoints.contents import EXPERIMENT, MODEL, with_model
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.plugin_code import changed_modules
from lmkit.checkpoints.second_place import SecondPlace
from lmkit.config import Experiment, Stage, differences
from lmkit.errors import CheckpointError, DistributedError
from lmkit.model import LMBase
from lmkit.ranks.world import World
from lmkit.train.loading import RUN_CHECKPOINTS, find_checkpoint
from lmkit.train.lock import run_lock
from lmkit.train.metrics import FILE as METRICS

logger = logging.getLogger(__name__)

HORIZONS = ("steps", "tokens", "epochs")
# what no step depends on may differ in a run that goes on
HARMLESS = (
    "copy_to",
    "out",
    "runner.collective_timeout",
    "runner.max_batch_size",
    "runner.on_anomaly*",
    "runner.strategy",
    "runner.time_limit",
    "runner.watchdog",
    "stages.*.checkpoint.*",
)


class RunFolder:
    """The folder of a run: finds the checkpoint to go on from, and refuses what changed since.

    Args:
        allow_change: globs over the dotted keys that may differ from what the run began with.
    """

    def __init__(self, experiment: Experiment, allow_change: Sequence[str] = ()) -> None:
        self.experiment = experiment
        self.allow_change = allow_change
        self.path = Path(experiment.out)

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes out while the `with` block runs."""
        return run_lock(self.path)

    @property
    def checkpoints(self) -> Path:
        """Where this run's checkpoints lie."""
        return self.path / RUN_CHECKPOINTS

    def rows_note(self, stage: str) -> Path:
        """Where a start that ran out of memory in a stage leaves what the next begins it with."""
        return self.path / f"rows-{stage}"

    def find_resume(self, world: World, model: LMBase) -> Checkpoint | None:
        """The newest good checkpoint, or None for a fresh start; the same on every rank.

        Raises:
            DistributedError: the ranks see different folders.
            CheckpointError: the experiment changed in more than a longer horizon, or the source of
                a class that it names; or the run has checkpoints and none is good.
        """
        checkpoint = CheckpointDir(self.checkpoints).latest()
        if checkpoint is not None:
            before, now = (
                Experiment.from_dict(each, folder=self.experiment.folder)
                for each in (checkpoint.experiment, with_model(self.experiment.to_dict(), model))
            )
            changed = [
                key
                for key in differences(before, now)
                if not _is_longer_horizon(key, before, self.experiment, checkpoint.state)
            ]
            code = changed_modules(checkpoint.folder, self.experiment.to_dict())
            changed += [f"the module {name}" for name in code]
            self._refuse({key: key for key in changed if not _is_any_of(HARMLESS, key)})
            if changed:
                logger.warning("%s: goes on although %s changed", self.path, ", ".join(changed))
        step = checkpoint.step if checkpoint else -1
        if world.min(step) != world.max(step):
            raise DistributedError(
                f"the ranks found different checkpoints in {self.path}",
                hint="put `out` on a file system that all nodes see",
            )
        return checkpoint

    def copies(self) -> SecondPlace | None:
        """The second place of its checkpoints, where the experiment names one."""
        if not self.experiment.copy_to:
            return None
        beside = [self.path / METRICS, self.path / EXPERIMENT]
        return SecondPlace.of_run(self.path, self.experiment.copy_to, beside)

    def find_weights(self, name: str) -> Checkpoint:
        """What `init_from` names: a stage of this run, another run's folder, or one checkpoint.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        for entry in reversed(CheckpointDir(self.checkpoints).entries()):
            if entry.is_whole() and entry.stage == name:
                entry.check(for_inference=True)
                return entry
        return find_checkpoint(name)

    def note(self, checkpoint: Checkpoint) -> dict[str, str]:
        """A checkpoint's place and its weights' sha256, as JSON; `noted` finds it again."""
        folder = checkpoint.folder
        of_run = folder.parent == self.checkpoints  # the run may be moved
        return {
            "checkpoint": folder.name if of_run else str(folder.resolve()),
            "weights": checkpoint.manifest.files[MODEL].sha256,
        }

    def noted(self, note: Mapping[str, str]) -> Checkpoint:
        """The checkpoint that `note` was made of.

        Raises:
            CheckpointError: it is gone, damaged, or another one.
        """
        checkpoint = Checkpoint(self.checkpoints / note["checkpoint"])
        checkpoint.check(for_inference=True)
        if checkpoint.manifest.files[MODEL].sha256 != note["weights"]:
            raise CheckpointError(
                "its weights are not those the stage began with", at=checkpoint.folder
            )
        return checkpoint

    def write_experiment(self) -> None:
        """Keep the resolved experiment with the run."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.experiment.to_dict(), indent=2)
        (self.path / EXPERIMENT).write_text(text + "\n", encoding="utf-8")

    def refuse_other_data(self, stage: Stage, before: str, now: str) -> None:
        """Compare a stage's data with what the run began with, by fingerprint.

        Raises:
            CheckpointError: its content changed: the order of samples would be another.
        """
        if before != now:
            key = f"stages.{stage.name}.data"
            path = stage.data.args.get("path", stage.data.path)
            files = path if isinstance(path, str) else ", ".join(map(str, path))
            self._refuse({key: f"the contents of {files} ({key})"})

    def _refuse(self, changed: Mapping[str, str]) -> None:
        """Raise CheckpointError, unless all of it is allowed.

        Args:
            changed: by its key what an error calls it.
        """
        refused = [key for key in changed if not _is_any_of(self.allow_change, key)]
        if refused:
            told = ", ".join(changed[key] for key in refused)
            keys = shlex.quote(refused[0]) if len(refused) == 1 else "KEY for each"
            raise CheckpointError(
                f"{self.path} was begun otherwise: {told} changed",
                hint=f"change it back, give the run another name:, or say --allow-change {keys}",
            )


def _is_any_of(patterns: Iterable[str], key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _is_longer_horizon(
    key: str, before: Experiment, after: Experiment, state: dict[str, Any]
) -> bool:
    """True where `key` only lets a stage that is not yet left run longer."""
    parts = key.split(".")
    if len(parts) != 3 or parts[0] != "stages" or parts[2] not in HORIZONS:
        return False
    names = [stage.name for stage in after.stages]
    if names != [stage.name for stage in before.stages] or parts[1] not in names:
        return False
    index = names.index(parts[1])
    if index < state["progress"]["stage_index"]:
        return False
    old = getattr(before.stages[index], parts[2])
    new = getattr(after.stages[index], parts[2])
    numbers = isinstance(old, (int, float)) and isinstance(new, (int, float))
    return numbers and new > old
