"""Muon against a plain per-matrix reference, torch.optim.Muon, and its own laws."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from lmkit.errors import ConfigError
from lmkit.optim.muon import METHODS, NEWTON_SCHULZ, POLAR_EXPRESS, Muon, orthogonalize

SHAPES = [(8, 8), (8, 8), (24, 8), (8, 24), (8, 24), (5, 7)]


def make_parameters(seed: int = 0, shapes: list[tuple[int, int]] = SHAPES) -> list[Parameter]:
    torch.manual_seed(seed)
    return [Parameter(torch.randn(shape)) for shape in shapes]


def give_gradients(parameters: list[Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)


class Reference:
    """Muon as its papers write it: one matrix at a time, fp64, nothing shared with lmkit."""

    def __init__(self, weight: Tensor, **options: float) -> None:
        self.weight = weight.detach().double()
        self.options = options
        self.momentum = torch.zeros_like(self.weight)
        self.moment: Tensor | float = 0.0

    def step(self, grad: Tensor) -> None:
        o, grad = self.options, grad.double()
        self.momentum = o["momentum"] * self.momentum + (1 - o["momentum"]) * grad
        x = o["momentum"] * self.momentum + (1 - o["momentum"]) * grad
        x = x / (1.02 * x.norm())
        for a, b, c in POLAR_EXPRESS:
            x = a * x + b * (x @ x.T @ x) + c * (x @ x.T @ x @ x.T @ x)
        rows, columns = x.shape
        if o["beta2"]:
            across = 1 if rows >= columns else 0
            power = (x**2).mean(across, keepdim=True)
            self.moment = o["beta2"] * self.moment + (1 - o["beta2"]) * power
            even = x / self.moment.sqrt()
            x = even * x.norm() / even.norm()
        shrinking = torch.sign(x) * torch.sign(self.weight) >= 0
        decay = o["lr"] * o["weight_decay"] * self.weight * shrinking
        self.weight = self.weight - decay - o["lr"] * math.sqrt(max(1, rows / columns)) * x


@pytest.mark.parametrize("beta2", [0.0, 0.9])
def test_batches_equal_the_reference_matrix_by_matrix(beta2: float) -> None:
    options = {"lr": 0.1, "momentum": 0.9, "beta2": beta2, "weight_decay": 0.5}
    parameters = make_parameters()
    references = [Reference(p, **options) for p in parameters]
    optimizer = Muon(parameters, dtype="float32", **options)
    for step in range(4):
        give_gradients(parameters, step)
        optimizer.step()
        for p, reference in zip(parameters, references, strict=True):
            reference.step(p.grad)
    for p, reference in zip(parameters, references, strict=True):
        torch.testing.assert_close(p.double(), reference.weight, atol=1e-4, rtol=1e-4)


def test_with_its_extras_off_it_is_torchs_muon() -> None:
    ours, theirs = make_parameters(), make_parameters()
    a = Muon(ours, lr=0.1, beta2=0, weight_decay=0.1, cautious=False, method="newton_schulz",
             dtype="bfloat16")  # fmt: skip
    b = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1)
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        # both round to bf16, 8 bits: at a rate of 0.1 that is some 0.005 a step
        torch.testing.assert_close(p, q, atol=0.02, rtol=0)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_singular_values_come_near_one(shape: tuple, dtype: torch.dtype, method: str) -> None:
    torch.manual_seed(1)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    spread = torch.linspace(0.05, 1, min(shape[1:])) * 7  # a condition of 20, at any scale
    x = orthogonalize((u * spread @ v).to(dtype), METHODS[method], 5).float()
    values = torch.linalg.svdvals(x)
    low, high = (0.85, 1.15) if method == "polar_express" else (0.6, 1.3)
    assert values.min() > low
    assert values.max() < high
    # the singular vectors stay: what is left is a stretched copy of u v
    assert torch.linalg.svdvals(u.mT @ x @ v.mT - torch.eye(min(shape[1:]))).max() < 1 - low + 0.05


@settings(max_examples=25)
@given(st.floats(1e-6, 1e6), st.integers(0, 1000))
def test_the_size_of_a_gradient_does_not_matter(scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(1, 6, 9)
    small = orthogonalize(x.clone(), NEWTON_SCHULZ, 5)
    torch.testing.assert_close(orthogonalize(x * scale, NEWTON_SCHULZ, 5), small)


def test_a_zero_gradient_changes_nothing_and_makes_no_nan() -> None:
    parameters = make_parameters()
    before = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    Muon(parameters).step()
    torch.testing.assert_close(parameters, before, atol=0, rtol=0)


def test_a_matrix_without_gradient_stays() -> None:
    first, second = make_parameters(shapes=[(4, 4), (4, 4)])
    before = second.detach().clone()
    first.grad = torch.ones_like(first)
    Muon([first, second], weight_decay=0.1).step()
    torch.testing.assert_close(second, before, atol=0, rtol=0)


def test_cautious_decay_touches_only_weights_that_shrink_anyway() -> None:
    def step(weight_decay: float) -> Tensor:
        parameters = make_parameters(shapes=[(6, 6)])
        give_gradients(parameters, 3)
        before = parameters[0].detach().clone()
        Muon(parameters, lr=0.01, weight_decay=weight_decay).step()
        return (before, parameters[0].detach())

    before, plain = step(0.0)
    _, decayed = step(0.5)
    shrinks = (before - plain) * before >= 0
    torch.testing.assert_close(decayed[~shrinks], plain[~shrinks], atol=0, rtol=0)
    expected = plain - 0.01 * 0.5 * before
    torch.testing.assert_close(decayed[shrinks], expected[shrinks])
    assert shrinks.any()
    assert not shrinks.all()


def test_normuon_evens_out_the_rows_and_keeps_the_norm() -> None:
    def updated(beta2: float) -> Tensor:
        (p,) = make_parameters(shapes=[(32, 8)])
        before = p.detach().clone()
        p.grad = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
        Muon([p], lr=1.0, beta2=beta2, dtype="float32").step()
        return before - p.detach()

    plain, even = updated(0.0), updated(0.9)
    torch.testing.assert_close(even.norm(), plain.norm())
    assert plain.norm(dim=1).std() > 0.1
    assert even.norm(dim=1).std() < 1e-4


def test_momentum_warms_up() -> None:
    parameters = make_parameters(shapes=[(4, 4)])
    optimizer = Muon(parameters, momentum=0.95, momentum_warmup=10)
    parameters[0].grad = torch.ones(4, 4)
    for _ in range(5):
        optimizer.step()
    halfway = optimizer.state[parameters[0]]["momentum"]
    expected, warm = 0.0, [0.85 + 0.1 * step / 10 for step in range(1, 6)]
    for momentum in warm:
        expected = momentum * expected + 1 - momentum
    torch.testing.assert_close(halfway, torch.full((4, 4), expected))


def test_small_batches_give_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped() -> list[Parameter]:
        parameters = make_parameters()
        give_gradients(parameters, 0)
        Muon(parameters, dtype="float32").step()
        return parameters

    whole = stepped()
    monkeypatch.setattr("lmkit.optim.muon.CPU_BATCH", 1)
    torch.testing.assert_close(stepped(), whole)


def test_state_is_fp32_for_weights_in_bf16() -> None:
    p = Parameter(torch.randn(4, 6).bfloat16())
    p.grad = torch.randn(4, 6).bfloat16()
    optimizer = Muon([p])
    optimizer.step()
    assert {name: (t.dtype, tuple(t.shape)) for name, t in optimizer.state[p].items()} == {
        "momentum": (torch.float32, (4, 6)),
        "second_moment": (torch.float32, (1, 6)),
    }


def test_normuon_can_be_switched_on_in_mid_run() -> None:
    (p,) = make_parameters(shapes=[(4, 6)])
    p.grad = torch.ones(4, 6)
    optimizer = Muon([p], beta2=0)
    optimizer.step()
    assert "second_moment" not in optimizer.state[p]
    optimizer.param_groups[0]["beta2"] = 0.9
    optimizer.step()
    assert optimizer.state[p]["second_moment"].shape == (1, 6)


def test_torchs_own_state_dict_goes_on_to_the_bit() -> None:
    through, halves = make_parameters(), make_parameters()
    first, second = Muon(through, momentum_warmup=6), Muon(halves, momentum_warmup=6)
    for step in range(6):
        give_gradients(through, step)
        first.step()
        if step == 3:
            saved = copy.deepcopy(second.state_dict())
            second = Muon(halves, momentum_warmup=6)
            second.load_state_dict(saved)
        give_gradients(halves, step)
        second.step()
    torch.testing.assert_close(halves, through, atol=0, rtol=0)


def test_it_learns_a_linear_map() -> None:
    torch.manual_seed(0)
    target, weight = torch.randn(12, 12), Parameter(torch.zeros(12, 12))
    optimizer = Muon([weight], lr=0.2)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 150)
        x = torch.randn(64, 12)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(x @ weight.T, x @ target.T).backward()
        optimizer.step()
    assert (weight - target).norm() / target.norm() < 0.02


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_only_matrices_are_taken(shape: tuple[int, ...]) -> None:
    named = {"params": [Parameter(torch.zeros(shape))], "param_names": ["conv.weight"]}
    with pytest.raises(ConfigError, match=r"conv\.weight has shape .*torch\.optim\.AdamW"):
        Muon([named])


@pytest.mark.parametrize(
    "wrong",
    [{"momentum": 1.0}, {"beta2": -0.1}, {"lr": -1}, {"iterations": 0}, {"method": "svd"},
     {"dtype": "int8"}, {"weight_decay": -1}, {"momentum_warmup": -1}],
)  # fmt: skip
def test_a_wrong_setting_is_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Muon(make_parameters(), **wrong)
