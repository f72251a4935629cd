"""parameters: those of a model by group and name, and which of them a stage trains; steps none."""

from __future__ import annotations

from torch import nn

from lmkit.config import Stage
from lmkit.model import LMBase
from lmkit.optim.selection import select


def named_groups(model: LMBase) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """The model's parameter groups with each parameter's name; a tied one has its first name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group: [(names[id(parameter)], parameter) for parameter in members]
        for group, members in model.param_groups().items()
    }


def freeze(model: LMBase, stage: Stage) -> None:
    """Leave out of training what the stage freezes: groups, globs over names, or `tag:NAME`.

    What an earlier stage froze is trained again; what the model itself froze stays frozen.

    Raises:
        ConfigError: a word means no parameter.
    """
    at = stage.places.get("freeze")
    frozen = {id(each) for each in select(stage.freeze, named_groups(model), at).values()}
    for parameter in model.parameters():
        if not hasattr(parameter, "trains_by_itself"):
            parameter.trains_by_itself = parameter.requires_grad  # type: ignore[attr-defined]
        wanted: bool = parameter.trains_by_itself  # type: ignore[attr-defined]
        parameter.requires_grad_(wanted and id(parameter) not in frozen)
