"""several: tasks asked by turns, as one; makes no problems of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, overload

from lmkit.data.cache import fingerprint_of
from lmkit.data.holdout import Split
from lmkit.errors import ConfigError
from lmkit.evals.task import Problem, Task, read_problems
from lmkit.prompts import Completion


@dataclass(frozen=True)
class Turn:
    """A task, and how many problems it has in every round."""

    task: Task
    weight: int = 1

    def __post_init__(self) -> None:
        if self.weight < 1:
            raise ConfigError(f"a weight must be 1 or more, not {self.weight}", key="weight")


@dataclass(frozen=True)
class Asked(Problem):
    """A problem that knows whose it is."""

    task: Task | None = field(default=None, compare=False)


class Several(Task):
    """Several tasks as one: for reinforcement learning that shall not forget what it is not asked.

    A round has `weight` problems of each task, one after the other. There are as many rounds as
    the longest task needs; a shorter one begins again.

    Args:
        tasks: list of {task: ..., weight: 1}.
        name: in tables and metrics.

    Raises:
        ConfigError: there is no task, or one whose answers cannot be scored.
    """

    def __init__(self, tasks: list[Turn], *, name: str = "several") -> None:
        if not tasks:
            raise ConfigError("there are no tasks", key="tasks")
        self.turns = tasks
        for turn in tasks:
            if turn.task.kind != "generative":
                said = f"{turn.task.name} offers choices: what is written is not scored"
                raise ConfigError(said, key="tasks")
        self.name = name
        self.max_new_tokens = max(turn.task.max_new_tokens for turn in self.turns)

    def problems(self, split: Split) -> Sequence[Problem]:
        return _Rounds(self.turns, split)

    def score(self, problem: Problem, completion: Completion) -> float:
        """By the problem's own task."""
        assert isinstance(problem, Asked)
        assert problem.task is not None
        return problem.task.score(problem, completion)

    def fingerprint(self) -> str:
        about = [[turn.task.fingerprint(), turn.weight] for turn in self.turns]
        return fingerprint_of(["Several", about])

    def describe(self) -> str:
        return "by turns: " + "; ".join(
            f"{turn.weight} x {turn.task.describe()}" for turn in self.turns
        )

    def available(self) -> bool:
        return all(turn.task.available() for turn in self.turns)


class _Rounds(Sequence[Problem]):
    """The problems of all tasks, by turns; one is made when it is asked for."""

    def __init__(self, turns: Sequence[Turn], split: Split) -> None:
        given = [(turn, read_problems(turn.task, split)) for turn in turns]
        self._given = [(turn, problems) for turn, problems in given if len(problems)]
        weights = [turn.weight for turn, _ in self._given]
        self._starts = [0, *accumulate(weights)]
        rounds = [-(-len(problems) // turn.weight) for turn, problems in self._given]
        self._length = max(rounds, default=0) * self._starts[-1]

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        turn_of_round, place = divmod(index % len(self), self._starts[-1])
        which = max(i for i, start in enumerate(self._starts[:-1]) if start <= place)
        turn, problems = self._given[which]
        number = turn_of_round * turn.weight + place - self._starts[which]
        problem = problems[number % len(problems)]
        return Asked(
            problem.messages,
            problem.solution,
            problem.answer,
            problem.choices,
            problem.correct,
            problem.at,
            task=turn.task,
        )
