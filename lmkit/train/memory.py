"""memory: how many rows go through the model at once. The gradient does not depend on it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import torch

from lmkit.checkpoints.durable import storage_errors, sync
from lmkit.errors import ConfigError, is_out_of_memory

T = TypeVar("T")

# Where `auto` starts: tokens a micro-batch. More brings no speed on a CPU, whose caches it leaves;
# on a GPU it is what fills one of 80 GB with a model of some hundred million parameters.
AUTO_TOKENS = {"cpu": 16_384, "cuda": 65_536}


class MicroBatch:
    """The rows of a micro-batch; halved when the memory does not hold them.

    Args:
        limit: rows, or `auto`.

    Attributes:
        note: a file in which a start that had to end for want of memory leaves to the next one how
            many rows to begin with; None: the number is not to change from start to start.
    """

    def __init__(self, limit: int | Literal["auto"], device: torch.device) -> None:
        if limit != "auto" and limit < 1:
            raise ConfigError(f"max_batch_size {limit} is less than one row")
        self.limit = limit
        self.device = device
        self.rows = 1 if limit == "auto" else limit
        self.note: Path | None = None

    def choose(self, width: int, rows: int) -> None:
        """Start with what `limit` allows of `rows` rows of `width` tokens."""
        usual = max(1, AUTO_TOKENS.get(self.device.type, 16_384) // width)
        self.rows = max(1, min(usual if self.limit == "auto" else self.limit, rows))

    def heed(self, note: Path) -> bool:
        """Begin with no more rows than an earlier start has left in `note`, and leave them there;
        whether that were fewer.

        Raises:
            ConfigError: it holds no number of rows.
        """
        self.note, before = note, self.rows
        if note.exists():
            try:
                self.rows = min(self.rows, max(1, int(note.read_text(encoding="utf-8"))))
            except ValueError as error:
                hint = "delete it to begin with as many as usual"
                raise ConfigError("holds no number of rows", hint=hint, at=note) from error
        return self.rows < before

    def fit(self, work: Callable[[], T], undo: Callable[[], None], *, alone: bool = True) -> T:
        """Do `work`, which reads `rows`; as long as the memory does not suffice, undo it and halve.

        Args:
            alone: False where other ranks wait in the midst of `work`: it is not tried again, but
                noted for the next start.

        Raises:
            ConfigError: one row does not fit, or the work cannot be tried again.
            StorageError: the note cannot be written.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.rows == 1:
                    raise ConfigError(
                        f"one row does not fit into the memory of {self.device}: {error}",
                        hint="a smaller model or max_len",
                    ) from error
                if not alone:
                    raise ConfigError(
                        f"{self.rows} rows no longer fit into the memory of {self.device}",
                        hint=self._leave_to_the_next(_half(self.rows)),
                    ) from error
            undo()
            self.rows = _half(self.rows)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _leave_to_the_next(self, rows: int) -> str:
        """Note `rows` for the next start; how it goes on, in words."""
        if self.note is None:
            return f"go on with runner.max_batch_size={rows}"
        aside = self.note.with_name(f".tmp-{uuid.uuid4().hex}")  # several ranks may be short
        with storage_errors(self.note):
            aside.write_text(f"{rows}\n", encoding="utf-8")
            sync(aside)
            aside.replace(self.note)
        return f"the same command goes on with {rows}"


def _half(rows: int) -> int:
    return (rows + 1) // 2
