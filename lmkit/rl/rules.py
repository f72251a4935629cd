"""rules: how answers are sampled and weighed, as plain numbers; knows no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The arguments of `GRPO`, checked; its docstring says what each means.

    Raises:
        ConfigError: a value is out of its range.
    """

    group_size: int = 16
    max_new_tokens: int | None = None
    scale_by_std: bool = False
    steps_per_rollout: int = 1
    clip_ratio: float = 0.2
    kl: float = 0.0
    rows: int = 128

    def __post_init__(self) -> None:
        limits = {"group_size": 2, "max_new_tokens": 1, "steps_per_rollout": 1, "rows": 1}
        for key, least in {**limits, "clip_ratio": 0, "kl": 0}.items():
            value = getattr(self, key)
            if value is not None and value < least:
                raise ConfigError(f"{key} must be at least {least}, not {value}", key=key)

    def advantages(self, rewards: Tensor) -> Tensor:
        """(problems, group_size) rewards -> what each answer is better than its group's mean.

        0 where a whole group has one reward: it says nothing about what to do otherwise.
        """
        centred = rewards - rewards.mean(dim=1, keepdim=True)
        if self.scale_by_std:
            centred = centred / (rewards.std(dim=1, keepdim=True) + 1e-6)
        return torch.where(equal_groups(rewards)[:, None], 0.0, centred)

    def ratio_weights(self, advantages: Tensor, ratio: Tensor) -> Tensor:
        """What the clipped objective's gradient weighs each log-probability with.

        The gradient of min(r A, clip(r, 1 - c, 1 + c) A) is r A, and 0 where the ratio has left the
        interval in the direction of A (PPO, arXiv 1707.06347).
        """
        low, high = 1 - self.clip_ratio, 1 + self.clip_ratio
        kept = torch.where(advantages >= 0, ratio <= high, ratio >= low)
        return advantages * ratio * kept


def equal_groups(rewards: Tensor) -> Tensor:
    """(problems, group_size) rewards -> (problems,) bool: all answers got the same."""
    return (rewards == rewards[:, :1]).all(dim=1)
