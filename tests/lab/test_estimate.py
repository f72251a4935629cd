"""The memory that is told is the memory that is held, without holding it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from lmkit import LMBase
from lmkit.config import Spec
from lmkit.lab.estimate import device_memory, estimate_memory
from lmkit.optim import OptimizerSet
from lmkit.text import Byte
from lmkit.train.loading import build_model
from lmkit.train.parameters import named_groups
from lmkit.train.precision import Precision

CPU = torch.device("cpu")
FP32, BF16 = Precision("fp32", CPU), Precision("bf16", CPU)
ADAMW = "torch.optim.AdamW"


class Squares(LMBase):
    """Keeps exactly three things for its backward pass: ids, x and x * x."""

    def __init__(self, width: int = 32) -> None:
        super().__init__(tokenizer=Byte(), max_len=8)
        self.embedding = nn.Embedding(257, width)
        self.head = nn.Parameter(torch.ones(width, 257))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens).square() @ self.head


def optimizers(model: LMBase, kind: str = ADAMW) -> OptimizerSet:
    return OptimizerSet.build(named_groups(model), [{"class": kind, "lr": 0.1}])


def test_every_part() -> None:
    model = Squares()
    found = estimate_memory(model, optimizers(model), 4, False, FP32)
    count = 2 * 32 * 257
    assert found.weights == found.gradients == 4 * count
    assert found.optimizers == 2 * 4 * count + 2 * 4  # and a step counter a parameter
    ids, hidden, logits = 4 * 8 * 8, 4 * 8 * 32 * 4, 4 * 8 * 257 * 4
    # what cross_entropy keeps (log-probabilities, ids again as targets) and the weights of tokens
    assert found.activations is not None
    assert ids + 2 * hidden + logits <= found.activations <= ids + 2 * hidden + 1.2 * logits
    held = found.weights + found.gradients + found.optimizers + found.activations
    assert found.copy == found.weights + found.optimizers  # what a save keeps of it
    assert found.total == held + found.copy


def test_a_save_copies_into_the_hosts_memory() -> None:
    model = Squares()
    found = estimate_memory(model, optimizers(model), 4, False, FP32, averaged=True)
    assert found.average == found.gradients
    assert found.copy == found.weights + found.average + (found.optimizers or 0)
    assert found.total == sum(n or 0 for n in found.parts.values())
    elsewhere = replace(found, on_host=False)
    assert (found.total or 0) - (elsewhere.total or 0) == found.copy == elsewhere.copy


def test_rows_and_precision_count() -> None:
    def activations(rows: int, precision: Precision) -> int:
        model = Squares(width=512)
        return estimate_memory(model, optimizers(model), rows, False, precision).activations or 0

    assert activations(8, FP32) == pytest.approx(2 * activations(4, FP32), rel=0.01)
    assert activations(64, BF16) < 0.95 * activations(64, FP32)


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("path", ["lmkit_models.gpt.GPT", "lmkit_models.gpt2.GPT2"])
def test_without_numbers_it_is_as_much(path: str, isolated: bool) -> None:
    measures = {"gpt": {"depth": 2, "width": 32, "head_dim": 16, "max_len": 64}}
    small = measures.get(path.split(".")[1], {"layers": 2, "heads": 2, "embedding_dim": 32})
    spec = Spec(path, {"max_len": 64, **small})

    def estimate() -> Any:
        model = build_model(spec, Byte())
        chosen = OptimizerSet.build(named_groups(model), model.default_optimizers(512, 10))
        return model, estimate_memory(model, chosen, 4, isolated, BF16)

    _, real = estimate()
    with FakeTensorMode():
        model, fake = estimate()
    assert all(isinstance(p.data, FakeTensor) for p in model.parameters())
    assert (fake.weights, fake.gradients) == (real.weights, real.gradients)
    assert fake.optimizers == real.optimizers
    # LayerNorm's statistics have another dtype in its shape-only version
    assert fake.activations == pytest.approx(real.activations, rel=0.01)


def test_frozen_parameters_have_no_gradient() -> None:
    model = Squares()
    model.head.requires_grad_(False)
    found = estimate_memory(model, optimizers(model), 1, False, FP32)
    assert found.gradients == found.weights / 2


def test_what_needs_numbers_is_not_guessed() -> None:
    with FakeTensorMode():
        model = Squares()
        found = estimate_memory(model, optimizers(model, "torch.optim.ASGD"), 1, False, FP32)
    assert (found.optimizers, found.total) == (None, None)
    assert found.activations

    class Asks(Squares):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return super().forward(tokens) * float(self.head.sum())

    with FakeTensorMode():
        model = Asks()
        assert estimate_memory(model, optimizers(model), 1, False, FP32).activations is None


def test_the_machine() -> None:
    assert (device_memory(CPU) or 0) > 2**28
