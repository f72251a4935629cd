"""A small model with dropout off, and a task that any model can do a little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from lmkit.config import Spec, Stage
from lmkit.data.holdout import Split
from lmkit.evals.task import Problem, Task
from lmkit.model import LMBase
from lmkit.prompts import Completion, Message
from lmkit.ranks.world import World
from lmkit.text import Byte
from lmkit.train.memory import MicroBatch
from lmkit.train.objective import Scene
from lmkit.train.plan import StagePlan
from lmkit.train.precision import Precision
from lmkit_models.gpt import GPT


class Plain(Task):
    """The more of an answer is ASCII, the better: a model that knows nothing gets about a half."""

    name = "plain"
    max_new_tokens = 6

    def problems(self, split: Split) -> Sequence[Problem]:
        return [
            Problem((Message("user", letter),), Message("assistant", 3 * letter), letter)
            for letter in "aeiou"
        ]

    def score(self, problem: Problem, completion: Completion) -> float:
        return sum(token < 128 for token in completion.ids) / self.max_new_tokens

    def fingerprint(self) -> str:
        return "plain"


def make_model(seed: int = 0, **changes: Any) -> LMBase:
    torch.manual_seed(seed)
    sizes = {"depth": 1, "width": 32, "head_dim": 16, "max_len": 64}
    model = GPT(tokenizer=Byte(), **{**sizes, **changes})
    with torch.no_grad():  # as it is born every token is as likely
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def model() -> LMBase:
    return make_model()


@pytest.fixture
def task() -> Task:
    return Plain()


@pytest.fixture
def make_scene() -> Callable[..., Scene]:
    """A scene of a stage that has just begun, on one rank in float32."""

    def make(
        model: LMBase, *, rows: int = 3, steps: int = 4, position: int = 0, **more: Any
    ) -> Scene:
        device = torch.device("cpu")
        micro_batch = MicroBatch("auto", device)
        micro_batch.rows = 2
        return Scene(
            stage=Stage(name="rl", data=Spec("x.Y"), steps=steps, batch_size=rows),
            plan=StagePlan(steps, rows, model.max_len, rows * steps, 5),
            position=position,
            model=model,
            world=more.get("world", World(0, 1, device)),
            precision=Precision("fp32", device),
            micro_batch=micro_batch,
            seed=7,
            reference=lambda: make_model(seed=1).eval().requires_grad_(False),
        )

    return make
