"""strategies: the words of a YAML for how ranks share a run, and what they do not go with."""

from __future__ import annotations

from typing import Literal

from lmkit.config import Stage
from lmkit.errors import ConfigError
from lmkit.ranks.world import World
from lmkit.train.fsdp import FullySharded
from lmkit.train.objective import Objective
from lmkit.train.strategy import Sharded, Strategy

Kind = Literal["ddp", "sharded", "fsdp"]
Reduction = Literal["fast", "ordered"]


def make_strategy(kind: Kind, reduction: Reduction, world: World) -> Strategy:
    """The strategy of a run; one rank alone has everything whatever it is called."""
    if world.size == 1 or kind == "ddp":
        return Strategy(world, ordered=reduction == "ordered")
    if kind == "sharded":
        return Sharded(world)
    return FullySharded(world)


def check_settings(
    kind: Kind,
    reduction: Reduction,
    *,
    max_batch_size: int | Literal["auto"],
    precision: str,
    compile: bool | Literal["auto"],
) -> None:
    """Refuse what does not go together, on one rank as on several: a run may move.

    Raises:
        ConfigError: says what to change.
    """
    if reduction == "ordered" and max_batch_size == "auto":
        raise ConfigError(
            "reduction: ordered adds gradients by micro-batches, whose size must not depend on "
            "the memory there is",
            hint="give max_batch_size a number of rows",
            key="reduction",
        )
    if reduction == "ordered" and kind != "ddp":
        raise ConfigError(
            f"strategy {kind} cuts the work by the number of ranks, and reduction: ordered does "
            "not depend on it",
            hint="use strategy: ddp",
            key="reduction",
        )
    if kind == "fsdp" and precision == "fp8":
        raise ConfigError("strategy fsdp does not cut weights for fp8", hint="use bf16")
    if kind == "fsdp" and compile is True:
        raise ConfigError(
            "strategy fsdp puts weights together between two blocks, which cannot be compiled",
            hint="leave compile at auto, or use strategy: sharded",
            key="compile",
        )


def check_stage(kind: Kind, reduction: Reduction, stage: Stage, objective: Objective) -> None:
    """Refuse a stage that cannot be trained this way.

    Raises:
        ConfigError: says what to change.
    """
    if kind == "fsdp" and stage.objective is not None:
        raise ConfigError(
            f"stage '{stage.name}': an objective asks the model by itself on every rank, and with "
            "strategy fsdp no rank has all of it",
            hint="use strategy: sharded",
            key="objective",
        )
    if reduction == "ordered" and not objective.by_rows:
        raise ConfigError(
            f"stage '{stage.name}': what a rank writes itself is not cut into the same "
            "micro-batches on any number of ranks, as reduction: ordered needs it",
            hint="leave reduction out",
            key="objective",
        )
