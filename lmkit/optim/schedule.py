"""schedule: how far a stage is (0 to 1) in, the factor on every learning rate (0 to 1) out.

A length (`warmup`, `decay`) below 1 is a share of the stage, from 1 on a number of steps. Any
callable from progress to factor is a schedule: these are classes only to have settings.

All of them warm up linearly and count the step that is about to be made, so that the first one is
not wasted at rate 0: of 40 steps of warm-up it gets 1/40. A warm-up longer than the stage stays
unfinished, with a warning, and a short trial sees the same first steps as the long run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

from lmkit.config.names import MEND, plugin_errors
from lmkit.config.registry import Spec, build, check, parameters, resolve
from lmkit.errors import ConfigError

logger = logging.getLogger(__name__)

Schedule = Callable[[float], float]


def make_schedule(spec: Spec | str | Mapping[str, Any], *, steps: int) -> Schedule:
    """The schedule that `spec` names: a class, which may ask for `steps`, or a function.

    A function is one with an argument called `progress`; the spec gives its other ones.

    Raises:
        ConfigError: a key is wrong, or what is named gives no number for a progress of 0.
        PluginError: it fails; so may the schedule later, with the progress that it fails at.
    """
    read = Spec.of(spec)
    if "steps" in read.args:
        at = read.places.get("steps", read.at)
        raise ConfigError("a schedule is given the stage's steps", hint="leave steps out", at=at)
    target = resolve(read.path, read.at)
    if any(parameter.name == "progress" for parameter in parameters(target)):
        schedule = partial(target, **check(read, ["progress"]))
    else:
        schedule = build(read, steps=steps)

    def factor(progress: float) -> float:
        with plugin_errors(f"{read.path} fails at progress {progress:g}", read.at, MEND):
            return schedule(progress)

    if not callable(schedule) or not isinstance(factor(0.0), int | float):
        raise ConfigError(
            f"{read.path} is no schedule", hint="progress (0 to 1) in, a factor out", at=read.at
        )
    return factor


class Constant:
    """Rise to 1 and stay.

    Args:
        warmup: share of the stage, or steps, until the factor is 1.
        steps: optimizer steps of the stage.
    """

    def __init__(self, warmup: float = 0.0, *, steps: int) -> None:
        if warmup < 0:
            raise ConfigError(f"warmup is {warmup}", hint="it is at least 0", key="warmup")
        if warmup > steps:
            _warn_once(
                f"the warm-up of {warmup:g} steps is longer than its stage of {steps}: no rate "
                f"gets beyond {steps / warmup:.2g} of its own"
            )
        self.steps = steps
        self.warmup = warmup if warmup < 1 else warmup / steps  # as a share; above 1: unfinished

    def __call__(self, progress: float) -> float:
        """The factor at `progress`."""
        done = progress + 1 / self.steps
        return min(1.0, done / self.warmup) if self.warmup else 1.0


class WarmupCosine(Constant):
    """Rise to 1, then fall along half a cosine to `floor` at the end (Loshchilov and Hutter 2017,
    arXiv 1608.03983).

    Args:
        warmup: share of the stage, or steps, until the factor is 1.
        floor: the factor at the end, 0 to 1.
        steps: optimizer steps of the stage.
    """

    def __init__(self, warmup: float = 0.02, floor: float = 0.1, *, steps: int) -> None:
        super().__init__(warmup, steps=steps)
        self.floor = _checked_floor(floor)

    def __call__(self, progress: float) -> float:
        """The factor at `progress`."""
        fallen = _share_done(progress, self.warmup)
        fall = 0.5 * (1 + math.cos(math.pi * fallen))
        return super().__call__(progress) * (self.floor + (1 - self.floor) * fall)


class WarmupStableDecay(Constant):
    """Rise to 1, stay, then fall in a line to `floor` at the end (trapezoid; Hägele et al. 2024,
    arXiv 2405.18392).

    Args:
        warmup: share of the stage, or steps, until the factor is 1.
        decay: share of the stage that falls, up to and with 1, or steps above it.
        floor: the factor at the end, 0 to 1.
        steps: optimizer steps of the stage.
    """

    def __init__(
        self, warmup: float = 0.02, decay: float = 0.5, floor: float = 0.0, *, steps: int
    ) -> None:
        super().__init__(warmup, steps=steps)
        if decay <= 0:
            raise ConfigError(f"decay is {decay}", hint="it is above 0", key="decay")
        self.decay = decay if decay <= 1 else min(1.0, decay / steps)
        self.floor = _checked_floor(floor)

    def __call__(self, progress: float) -> float:
        """The factor at `progress`."""
        fallen = _share_done(progress, 1 - self.decay)
        return super().__call__(progress) * (1 - (1 - self.floor) * fallen)


class InverseSquareRoot(Constant):
    """Rise to 1, then fall with the root of the steps made (Vaswani et al. 2017, arXiv 1706.03762).

    Its shape does not know the end: what it does until step n is the same in every longer stage.

    Args:
        warmup: share of the stage, or steps, until the factor is 1; above 0.
        steps: optimizer steps of the stage.
    """

    def __init__(self, warmup: float = 0.02, *, steps: int) -> None:
        super().__init__(warmup, steps=steps)
        if not warmup:
            raise ConfigError("the fall begins at the warm-up's end: warmup is 0", key="warmup")

    def __call__(self, progress: float) -> float:
        """The factor at `progress`."""
        return super().__call__(progress) * math.sqrt(self.warmup / max(self.warmup, progress))


@lru_cache(maxsize=16)
def _warn_once(said: str) -> None:
    logger.warning(said)  # a stage is looked at before it runs, and its schedule made again


def _share_done(progress: float, start: float) -> float:
    """How much of the way from `start` to 1 is done; 0 before it."""
    return max(0.0, progress - start) / max(1 - start, 1e-12)


def _checked_floor(floor: float) -> float:
    if not 0 <= floor <= 1:
        raise ConfigError(f"floor is {floor}", hint="it lies between 0 and 1", key="floor")
    return floor
