"""AdamW: the same steps as torch's, to the bit, and a state that either goes on with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from lmkit.errors import ConfigError
from lmkit.optim import AdamW

SETTINGS: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}


def parameters() -> list[Parameter]:
    torch.manual_seed(0)
    return [Parameter(torch.randn(shape)) for shape in [(7, 5), (9,), (2, 3, 4)]]


def step(optimizer: torch.optim.Optimizer, count: int) -> None:
    """`count` steps, of which every second one leaves the last parameter out."""
    for i in range(count):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.sin(p.detach() * (i + 3))
        optimizer.param_groups[-1]["params"][-1].grad = None if i % 2 else torch.ones(2, 3, 4)
        optimizer.step()


@pytest.mark.parametrize("fused", [True, False])
def test_steps_are_those_of_torch(fused: bool) -> None:
    ours, theirs = parameters(), parameters()
    mine = AdamW([{"params": ours[:1]}, {"params": ours[1:], "weight_decay": 0.0}], fused=fused,
                 **SETTINGS)  # fmt: skip
    of_torch = torch.optim.AdamW(
        [{"params": theirs[:1]}, {"params": theirs[1:], "weight_decay": 0.0}], fused=fused,
        foreach=False, **SETTINGS,
    )  # fmt: skip
    step(mine, 5)
    step(of_torch, 5)
    for own, other in zip(ours, theirs, strict=True):
        assert torch.equal(own, other)
        assert mine.state[own].keys() == of_torch.state[other].keys()
        for key, value in mine.state[own].items():
            assert torch.equal(value, of_torch.state[other][key])


def test_goes_on_from_the_state_of_torch() -> None:
    ours, theirs = parameters(), parameters()
    of_torch = torch.optim.AdamW(theirs, fused=True, **SETTINGS)
    step(of_torch, 3)
    for own, other in zip(ours, theirs, strict=True):
        own.data.copy_(other)
    mine = AdamW(ours, **SETTINGS)
    mine.load_state_dict(copy.deepcopy(of_torch.state_dict()))
    step(mine, 2)
    step(of_torch, 2)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_closure_is_called_with_gradients() -> None:
    (p,) = [Parameter(torch.ones(3))]

    def closure() -> float:
        p.grad = None
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    assert AdamW([p], lr=0.1).step(closure) == 3.0
    assert p.max() < 1


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"eps": -1.0}, {"weight_decay": -0.1}, {"betas": (0.9, 1.0)}]
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"AdamW's {next(iter(wrong))} "):
        AdamW(parameters(), **wrong)


def test_groups() -> None:
    p, q, r = parameters()
    optimizer = AdamW([("p", p), ("q", q)])
    assert optimizer.param_groups[0]["param_names"] == ["p", "q"]
    optimizer.add_param_group({"params": r, "lr": 7.0})
    assert optimizer.param_groups[1]["params"] == [r]
    assert optimizer.param_groups[1]["lr"] == 7.0
    assert optimizer.param_groups[1]["betas"] == (0.9, 0.999)
    for wrong, said in [(p, "twice"), (p * 2, "result of an operation")]:
        with pytest.raises(ValueError, match=said):
            optimizer.add_param_group({"params": [wrong]})
    with pytest.raises(TypeError, match="this is a int"):
        optimizer.add_param_group({"params": [3]})
