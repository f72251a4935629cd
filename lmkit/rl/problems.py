"""problems: the endless stream of a task's problems, any stretch at once; knows no answers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lmkit.evals.task import Problem, Task, read_problems
from lmkit.model import LMBase
from lmkit.text import Batch, Sample, chat


class ProblemRows:
    """Problems in an order that needs only a counter: every epoch has each once, shuffled.

    Args:
        model: who shall answer.

    Attributes:
        rows_per_epoch: problems of the task's training split.
    """

    def __init__(self, task: Task, model: LMBase, seed: int) -> None:
        self.task = task
        self.model = model
        self.seed = seed
        self.problems = read_problems(task, "train")
        self.rows_per_epoch = len(self.problems)
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def pick(self, first: int, count: int) -> list[tuple[int, Problem]]:
        """Problems first..first + count of the stream, each with its number."""
        picked = []
        for number in range(first, first + count):
            epoch, index = divmod(number, self.rows_per_epoch)
            picked.append((number, self.problems[int(self._order(epoch)[index])]))
        return picked

    def has_room(self, problem: Problem) -> bool:
        """Whether the question leaves room for an answer in the model's context."""
        asked = chat.ask(self.model.need_tokenizer(), problem.messages)
        return len(asked) <= self.model.max_len

    def batch(self, first_row: int, count: int) -> Batch:
        """What there is before the model has answered: each problem with its solution, if it has
        one, a problem a row."""
        tokenizer, width = self.model.need_tokenizer(), self.model.max_len
        rows = []
        for _, problem in self.pick(first_row, count):
            turns = (*problem.messages, *([problem.solution] if problem.solution else []))
            ids, said = chat.render(tokenizer, turns)
            sample = Sample(np.array(ids[: width + 1], np.int32), np.array(said[: width + 1]))
            rows.append([sample])
        return Batch.packed(
            rows,
            tokenizer.eos,
            tokenizer.token_bytes,
            width,
            isolate=self.model.accepts_documents,
        )

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.rows_per_epoch)
