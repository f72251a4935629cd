"""directory: the checkpoints of one run, which of them are good and which go; knows no training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.checkpoints.contents import NAME, CheckpointContents, Snapshot
from lmkit.checkpoints.durable import clean_leftovers, remove_folder, require_room, require_space
from lmkit.checkpoints.keeping import KeepRules
from lmkit.checkpoints.second_place import SecondPlace
from lmkit.errors import CheckpointError

logger = logging.getLogger(__name__)


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
