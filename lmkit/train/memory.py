"""memory: how many rows go through the model at once. The gradient does not depend on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import torch

from lmkit.errors import ConfigError
from lmkit.model.memory import is_out_of_memory

T = TypeVar("T")

# Where `auto` starts: tokens a micro-batch. More brings no speed on a CPU, whose caches it leaves;
# on a GPU it is what fills one of 80 GB with a model of some hundred million parameters.
AUTO_TOKENS = {"cpu": 16_384, "cuda": 65_536}


class MicroBatch:
    """The rows of a micro-batch; halved when the memory does not hold them.

    Args:
        limit: rows, or `auto`.
    """

    def __init__(self, limit: int | Literal["auto"], device: torch.device) -> None:
        if limit != "auto" and limit < 1:
            raise ConfigError(f"max_batch_size {limit} is less than one row")
        self.limit = limit
        self.device = device
        self.rows = 1

    def choose(self, width: int, rows: int) -> None:
        """Start with what `limit` allows of `rows` rows of `width` tokens."""
        usual = max(1, AUTO_TOKENS.get(self.device.type, 16_384) // width)
        self.rows = max(1, min(usual if self.limit == "auto" else self.limit, rows))

    def fit(self, work: Callable[[], T], undo: Callable[[], None], *, alone: bool = True) -> T:
        """Do `work`, which reads `rows`; as long as the memory does not suffice, undo it and halve.

        Args:
            alone: False where other ranks wait in the midst of `work`: it is not tried again.

        Raises:
            ConfigError: one row does not fit, or the work cannot be tried again.
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
                        hint=f"go on with runner.max_batch_size={(self.rows + 1) // 2}",
                    ) from error
            undo()
            self.rows = (self.rows + 1) // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
