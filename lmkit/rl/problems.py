"""problems: the endless stream of a task's problems, any stretch at once; knows no answers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lmkit.errors import ConfigError
from lmkit.evals.task import Problem, Task
from lmkit.text import Batch


class ProblemRows:
    """Problems in an order that needs only a counter: every epoch has each once, shuffled.

    Attributes:
        rows_per_epoch: problems of the task's training split.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.seed = seed
        self.problems = task.problems("train")
        self.rows_per_epoch = len(self.problems)
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def pick(self, first: int, count: int) -> list[tuple[int, Problem]]:
        """Problems first..first + count of the stream, each with its number."""
        picked = []
        for number in range(first, first + count):
            epoch, index = divmod(number, self.rows_per_epoch)
            picked.append((number, self.problems[int(self._order(epoch)[index])]))
        return picked

    def batch(self, first_row: int, count: int) -> Batch:
        """There is none before the model has answered."""
        raise ConfigError("problems are no batch: they have to be answered first")

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.rows_per_epoch)
