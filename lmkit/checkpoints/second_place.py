"""second_place: brings a run's checkpoints elsewhere while training goes on, and back again.

What is on the disk already is copied from there, by a thread that nothing waits for but the run's
end. The place keeps what the run's own rules keep of all that ever came there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lmkit.checkpoints.durable import require_room, staged_folder
from lmkit.checkpoints.keeping import KeepRules
from lmkit.checkpoints.manifest import MANIFEST, Manifest
from lmkit.checkpoints.place import Copied, Place
from lmkit.errors import CheckpointError, LMKitError, StorageError

logger = logging.getLogger(__name__)


class SecondPlace:
    """Where copies of a run's checkpoints go. A copy that fails is a warning, and tried again when
    the next checkpoint is saved, or the run ends.

    Args:
        url: a folder's path, or what fsspec reads (`s3://bucket/runs/x`).
        beside: files that are copied before each checkpoint: the metrics that lead up to it.
    """

    def __init__(self, url: str, beside: Sequence[Path] = ()) -> None:
        self.place = Place(url)
        self.beside = beside
        self._lock = threading.Lock()
        self._waiting: list[Path] = []  # the next one last
        self._current: Path | None = None
        self._rules = KeepRules()
        self._thread: threading.Thread | None = None
        self._failed = False

    @classmethod
    def of_run(cls, run: Path, copy_to: str, beside: Sequence[Path] = ()) -> SecondPlace:
        """That of a run's folder whose experiment names `copy_to`: there, under its own name."""
        return cls(f"{copy_to.rstrip('/')}/{run.resolve().name}", beside)

    def open(self) -> None:
        """See that the place answers.

        Raises:
            StorageError: it does not.
            ConfigError: there is no such kind of place, or its package is not installed.
        """
        with self._answering():
            self.place.open()

    def offer(self, kept: Sequence[Path], rules: KeepRules) -> None:
        """Copy what the place lacks of these checkpoints, the newest first. Returns at once.

        Args:
            kept: good checkpoints, oldest first.
            rules: which ones the place keeps.
        """
        with self._lock:
            self._waiting, self._rules, self._failed = list(kept), rules, False
            if self._thread is None:
                # not a daemon: the interpreter's end waits for it
                self._thread = threading.Thread(target=self._work, name="second place")
                self._thread.start()

    def let_go(self, folder: Path) -> bool:
        """Whether a checkpoint may be deleted here; not while it is being copied."""
        with self._lock:
            if folder == self._current:
                return False
            self._waiting = [path for path in self._waiting if path != folder]
            return True

    def wait(self) -> None:
        """Until nothing is left to be copied, or copying has failed."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def close(self) -> None:
        """`wait`, and say it in the last line where something could not be copied."""
        self.wait()
        if self._failed:
            logger.error(
                "%s lacks checkpoints of this run: the same command copies them; "
                "`lmkit checkpoint list --copies` says which",
                self.place.url,
            )

    def missing(self, folders: Sequence[Path]) -> list[str]:
        """The names of the checkpoints that are not there, whole and the same as here.

        Raises:
            StorageError: the place does not answer.
            ConfigError: as of `open`.
        """
        with self._answering():
            return [folder.name for folder in folders if not self._has(folder)]

    def fetch(self, folder: Path) -> None:
        """Bring the newest good checkpoint of every stage into `folder`, and the files beside it.

        Nothing is brought where the place has none. What lies there may be a stranger's: all is
        compared with its manifest, which may name no file outside a checkpoint.

        Raises:
            StorageError: the place does not answer, or there is too little room here.
            CheckpointError: it has some, and none is good.
        """
        with self._answering():
            entries = self.place.entries()
        brought: set[str] = set()
        for entry in reversed(entries):
            if entry.stage not in brought and self._fetch(entry, folder):
                brought.add(entry.stage)
                logger.warning("%s: brought here from %s", folder / entry.name, self.place.url)
        if entries and not brought:
            hint = "see the warnings above; without copy_to the run begins anew"
            raise CheckpointError("no checkpoint is good", hint=hint, at=self.place.url)
        for path in self.beside if brought else ():
            with self._answering():
                self.place.get_longer(path)

    def _fetch(self, entry: Copied, folder: Path) -> bool:
        try:
            with staged_folder(folder / entry.name) as staging:
                self._get(entry.name, staging)
        except CheckpointError as error:
            logger.warning("%s/%s: %s; passed over", self.place.url, entry.name, error.what)
            return False
        return True

    def _get(self, name: str, staging: Path) -> None:
        with self._answering():
            listed = self.place.manifest(name)
        (staging / MANIFEST).write_bytes(listed or b"")
        manifest = Manifest.read(staging)
        with self._answering():
            sizes = {file: self.place.size(name, file) for file in manifest.files}
        for file, record in manifest.files.items():
            if sizes[file] != record.size:
                raise CheckpointError(f"{file} has {sizes[file]} bytes, not {record.size}")
        require_room(staging, sum(record.size for record in manifest.files.values()))
        for file in manifest.files:
            with self._answering():
                self.place.get(name, file, staging / file)
        manifest.check()

    # --- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        while (folder := self._next()) is not None:
            try:
                self._copy(folder)
            except Exception as error:  # of any kind: each store's driver has its own
                logger.warning(
                    "%s: not copied to %s: %s; tried again with the next checkpoint",
                    folder,
                    self.place.url,
                    error or type(error).__name__,
                )
                with self._lock:
                    self._waiting, self._failed = [], True

    def _next(self) -> Path | None:
        with self._lock:
            self._current = self._waiting.pop() if self._waiting else None
            if self._current is None:
                self._thread = None  # from here on another one has to be started
            return self._current

    def _copy(self, folder: Path) -> None:
        if not self._has(folder):
            for path in self.beside:
                if path.exists():
                    self.place.put_beside(path)
            self.place.put(folder)
        whole = self.place.entries()
        kept = self._rules.staying(whole)
        doomed = [entry.name for entry in whole if entry.name not in kept]
        # what a kill or a lost connection left half copied has no manifest
        halves = [name for name in self.place.names() if self.place.manifest(name) is None]
        for name in (*doomed, *halves):
            self.place.remove(name)

    def _has(self, folder: Path) -> bool:
        return self.place.manifest(folder.name) == (folder / MANIFEST).read_bytes()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn whatever the store's driver raises into a StorageError."""
        try:
            yield
        except LMKitError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise StorageError(
                f"the second place of the checkpoints does not answer: {reason}",
                hint="set `copy_to` to another place, or leave it out",
                at=self.place.url,
            ) from error
