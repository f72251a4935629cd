"""generated: problems made by a rule, each from its number alone; knows no particular task.

Problem n of a split is drawn by a hash of (seed, split, n), so it needs no file and no problem
before it. What is asked about (the operands, the word) is its content, and a hash of the content
says to which split it belongs: whatever seed, wording or size is set, no content of `validation`
is ever in `train`, neither asked nor among the steps of a solution. Within a split, contents repeat
once there are more problems than contents.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, overload

from lmkit.data.cache import fingerprint_of
from lmkit.data.holdout import Split, is_held_out
from lmkit.errors import ConfigError, DataError, did_you_mean
from lmkit.evals.task import Problem, Task
from lmkit.prompts import Message

HOLDOUT = 0.1  # share of all contents that is never trained
_TRIES = 1000  # a draw is held out one time in ten: 0.9 ** 1000 is 1e-46
_Content = tuple[str | int, ...]
_T = TypeVar("_T")


class Draw:
    """Numbers from a hash of a key: the same in every process and every version of Python."""

    def __init__(self, *key: str | int) -> None:
        self._key = repr(key)
        self._count = 0

    def below(self, limit: int) -> int:
        """One of 0 ... limit - 1."""
        self._count += 1
        text = f"{self._key}{self._count}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % limit

    def choice(self, among: Sequence[_T]) -> _T:
        """One of them."""
        return among[self.below(len(among))]

    def sample(self, among: Sequence[_T], count: int) -> list[_T]:
        """So many different places of it, in the order they were drawn."""
        left = list(among)
        return [left.pop(self.below(len(left))) for _ in range(count)]


class Generated(Task):
    """A task made by a rule: a subclass writes `content`, `problem`, `settings` and `score`.

    Args:
        train: how many problems to train on.
        validation: how many to be measured on.
        seed: another one gives other problems of the same kind.
        name: in tables and metrics, where one class is used twice.

    Raises:
        ConfigError: a size is below 0.
    """

    version = 1  # goes up when the same arguments give other problems

    def __init__(
        self,
        *,
        train: int = 20_000,
        validation: int = 500,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        self.name = name or self.name
        self.sizes = {"train": train, "validation": validation}
        self.seed = seed
        for key, size in self.sizes.items():
            if size < 0:
                raise ConfigError(f"{key} is {size}", hint="it is how many problems", key=key)

    @abstractmethod
    def content(self, draw: Draw) -> _Content:
        """What a problem is about, in the one way to write it: 1 + 2 for 2 + 1 too."""

    @abstractmethod
    def problem(self, content: Any, draw: Draw) -> Problem:
        """The problem about it, worded as the draw has it."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What beside sizes and seed decides which problems there are, as plain data."""

    def shown(self, problem: Problem) -> Iterable[_Content]:
        """The contents that its solution answers on its way; none, if a subclass does not say."""
        return ()

    def problems(self, split: Split) -> Problems:
        """As `Task.problems`; one that is asked for raises DataError if the rule makes no content
        on the split's side.
        """
        return Problems(self, split)

    def fingerprint(self) -> str:
        about = [self.version, self.sizes, self.seed, self.settings()]
        return fingerprint_of([type(self).__name__, *about])

    def describe(self) -> str:
        sizes = f"{self.sizes['train']:,} problems, {self.sizes['validation']:,} held out"
        told = ", ".join(f"{key}: {json.dumps(value)}" for key, value in self.settings().items())
        return f"{type(self).__name__}: {sizes}; {told}"


class Problems(Sequence[Problem]):
    """The problems of a split, made when they are asked for; `all` are both splits' in a row."""

    def __init__(self, task: Generated, split: Split) -> None:
        self._task = task
        self._sizes = {side: size for side, size in task.sizes.items() if split in (side, "all")}

    def __len__(self) -> int:
        return sum(self._sizes.values())

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        train = self._sizes.get("train", 0)
        if number < train:
            return _make(self._task, "train", number)
        return _make(self._task, "validation", number - train)


def most_tokens(turns: Iterable[Message]) -> int:
    """Tokens of the longest turn, if each byte is one and a part stands between two marks."""
    return max(sum(len(part.text.encode()) + 2 for part in turn.parts) for turn in turns)


def check_names(names: Iterable[str], known: Iterable[str], key: str) -> tuple[str, ...]:
    """The names themselves, of which there is at least one.

    Raises:
        ConfigError: one is not known, or there is none; blames ``key``.
    """
    names, known = tuple(names), tuple(known)
    there_are = f"there are {', '.join(known)}"
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or there_are
            raise ConfigError(f"{key} has no {name!r}", hint=hint, key=key)
    if not names:
        raise ConfigError(f"{key} is empty", hint=there_are, key=key)
    return names


def _make(task: Generated, split: str, number: int) -> Problem:
    """Problem `number`: contents are drawn until one lies on the split's side.

    What is trained shows no held-out content on the way to its answer either.
    """
    for attempt in range(_TRIES):
        draw = Draw(task.seed, split, number, attempt)
        content = task.content(draw)
        if _held_out(content) != (split == "validation"):
            continue
        problem = task.problem(content, draw)
        if split == "validation" or not any(map(_held_out, task.shown(problem))):
            return replace(problem, at=f"{task.name}: {split} {number}")
    raise DataError(
        f"{type(task).__name__} has no problem for {split}: there are too few different ones",
        hint=f"give it more to choose from, or write {split}: 0",
    )


def _held_out(content: _Content) -> bool:
    return is_held_out(repr(content), HOLDOUT)
