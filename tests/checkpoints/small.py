"""A small model, its optimizers after two steps, and a checkpoint of both."""

from __future__ import annotations

from typing import Any

from lmkit.checkpoints.contents import CheckpointContents
from lmkit.optim import OptimizerSet
from lmkit.text import Byte
from lmkit_models.mlp import MLP


def make_model(**changes: Any) -> MLP:
    settings = {"embedding_dim": 2, "window": 2, "nodes": 4, "layers": 1, "max_len": 8, **changes}
    return MLP(tokenizer=Byte(), **settings)


def make_optimizers(model: MLP) -> OptimizerSet:
    groups = {"all": list(model.named_parameters())}
    optimizers = OptimizerSet.build(groups, [{"class": "torch.optim.AdamW", "lr": 0.1}])
    for _ in range(2):
        model.loss(model.tokenize(["some text"])).total.backward()
        optimizers.step()
        optimizers.zero_grad()
    return optimizers


MODEL = make_model()
OPTIMIZERS = make_optimizers(MODEL)


def contents(step: int, stage: str = "a", **more: Any) -> CheckpointContents:
    return CheckpointContents(
        MODEL, OPTIMIZERS, state={"step": step}, stage=stage, step=step, **more
    )
