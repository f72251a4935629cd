"""What an objective says of the rates: it proposes, a stage decides."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lmkit.config import Spec, Stage
from lmkit.rl.dpo import DPO
from lmkit.rl.grpo import GRPO
from lmkit.train.objective import Objective, rate_scale
from lmkit.train.stage_run import StageRun

ADAMW = (Spec("torch.optim.AdamW", {"lr": 1e-3}),)


@pytest.mark.parametrize(
    ("objective", "keys", "scale"),
    [
        (Objective(), {}, 1.0),
        (GRPO(), {}, GRPO.lr_scale),
        (DPO(), {}, DPO.lr_scale),
        (GRPO(), {"lr_scale": 0.7}, 0.7),
        (GRPO(), {"lr_scale": 1.0}, 1.0),
        (GRPO(), {"optimizers": ADAMW}, 1.0),
        (GRPO(), {"optimizers": ADAMW, "lr_scale": 0.7}, 0.7),
        (Objective(), {"lr_scale": 0.7}, 0.7),
    ],
)
def test_the_scale_of_the_rates(objective: Objective, keys: dict[str, Any], scale: float) -> None:
    stage = Stage(name="rl", data=Spec("x.Y"), steps=4, **keys)
    assert rate_scale(stage, objective) == scale
    plan: Any = SimpleNamespace(steps=4)
    rows: Any = None
    run = StageRun(stage, plan, objective, rows, None, lambda progress: 1 - progress)
    run.step = 1
    assert run.rate == scale * 0.75


def test_what_is_rewarded_or_compared_moves_less_than_text() -> None:
    assert 0 < GRPO.lr_scale < 0.2
    assert 0 < DPO.lr_scale < 0.2
