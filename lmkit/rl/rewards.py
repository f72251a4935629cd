"""rewards: how good an answer is, as a number; knows no model and no gradient.

A reward is anything that takes (problem, completion) and gives a number: a function of the user's,
or an object of a class here.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmkit.config import Spec, build
from lmkit.config.names import plugin_errors, resolve
from lmkit.errors import ConfigError, NumericError
from lmkit.evals.task import Problem, Task
from lmkit.prompts import Completion

Reward = Callable[[Problem, Completion], float]


class Ended:
    """1 for an answer that the model ended by itself, 0 for one that was cut."""

    def __call__(self, problem: Problem, completion: Completion) -> float:
        return float(completion.finish == "stop")


class Length:
    """1 up to `free` tokens, then less by an equal part a token, 0 from `limit` on.

    The soft punishment of overlong answers of DAPO (arXiv 2503.14476), as a reward.

    Args:
        free: so many tokens cost nothing.
        limit: so many are worth nothing.
    """

    def __init__(self, free: int, limit: int) -> None:
        if not 0 <= free < limit:
            raise ConfigError(f"free is {free} and limit {limit}", hint="0 <= free < limit")
        self.free, self.limit = free, limit

    def __call__(self, problem: Problem, completion: Completion) -> float:
        over = (len(completion.ids) - self.free) / (self.limit - self.free)
        return 1 - min(max(over, 0.0), 1.0)


class Format:
    """1 for an answer that a regular expression matches as a whole, else 0.

    Args:
        pattern: Python's dialect; `.` matches line ends too.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self.pattern = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ConfigError(f"no regular expression: {error}", key="pattern") from error

    def __call__(self, problem: Problem, completion: Completion) -> float:
        return float(self.pattern.fullmatch(completion.text.strip()) is not None)


class Rewards:
    """A weighted sum of rewards, each with a name; by default the task's own score alone.

    Args:
        wishes: list of {reward: a function or a class, weight: 1.0}.

    Raises:
        ConfigError: what is named cannot be called with a problem and a completion.
    """

    def __init__(
        self, wishes: Sequence[Mapping[str, Any]], task: Task, folder: str | None = None
    ) -> None:
        self.parts: list[tuple[str, Reward, float]] = []
        for wish in wishes or [{"reward": task.score}]:
            unknown = wish.keys() - {"reward", "weight"}
            if unknown or "reward" not in wish:
                raise ConfigError(
                    f"a reward is {{reward: ..., weight: ...}}, not {dict(wish)}", key="rewards"
                )
            name, reward = _open(wish["reward"], task, folder)
            if name in [other for other, _, _ in self.parts]:
                raise ConfigError(f"the reward {name} comes twice", key="rewards")
            self.parts.append((name, reward, float(wish.get("weight", 1.0))))

    @property
    def names(self) -> list[str]:
        """Of the parts, in their order."""
        return [name for name, _, _ in self.parts]

    def __call__(self, problem: Problem, completion: Completion) -> tuple[float, list[float]]:
        """The weighted sum, and what each part gave.

        Raises:
            PluginError: a reward raises; holds its traceback.
            NumericError: it gives something that is no finite number.
        """
        found = [_ask(name, part, problem, completion) for name, part, _ in self.parts]
        weights = [weight for _, _, weight in self.parts]
        return sum(w * value for w, value in zip(weights, found, strict=True)), found


def _open(named: Any, task: Task, folder: str | None) -> tuple[str, Reward]:
    """The reward that a YAML names: `task`, a function, a class, or {class: ..., key: value}."""
    if named == "task":
        named = task.score
    if isinstance(named, str | Spec):
        path = named if isinstance(named, str) else named.path
        target = resolve(path)
        # a function is the reward itself, a class makes one
        named = build(named, folder=folder) if inspect.isclass(target) else target
    if not callable(named):
        raise ConfigError(f"{named!r} is no reward", hint="name a function or a class of one")
    if getattr(named, "__self__", None) is task:
        return "score", named
    return getattr(named, "__name__", type(named).__name__).lower(), named


def _ask(name: str, reward: Reward, problem: Problem, completion: Completion) -> float:
    with plugin_errors(f"the reward {name} fails", problem.at or None):
        value = float(reward(problem, completion))
    if not math.isfinite(value):
        raise NumericError(
            f"the reward {name} is {value} for the answer {completion.text[:60]!r}",
            hint="a reward must be a finite number",
            at=problem.at or None,
        )
    return value
