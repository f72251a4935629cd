"""OptimizerSet: several optimizers as one, and a state that goes on to the bit."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lmkit.config.registry import Place, Spec
from lmkit.errors import CheckpointError, ConfigError
from lmkit.optim import OptimizerSet

MUON = {"class": "lmkit.optim.muon.Muon", "params": ["matrices"], "lr": 0.05, "momentum_warmup": 9}
ADAMW = {"class": "torch.optim.AdamW", "lr": 1e-2, "no_decay": ["scalars"]}
SGD = {"class": "torch.optim.SGD", "lr": 1e-2, "momentum": 0.9}
ADAGRAD = {"class": "torch.optim.Adagrad", "lr": 1e-2, "lr_decay": 0.1}


class Model(nn.Module):
    def __init__(self, swapped: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        up, down = nn.Linear(6, 12), nn.Linear(12, 6)
        self.embed = nn.Embedding(10, 6)
        for name, layer in [("up", up), ("down", down)][:: -1 if swapped else 1]:
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(self.embed(x)))) @ self.embed.weight.T

    def groups(self) -> dict[str, list[tuple[str, Parameter]]]:
        found: dict[str, list[tuple[str, Parameter]]] = {"embeddings": [], "matrices": [],
                                                         "scalars": []}  # fmt: skip
        for name, p in self.named_parameters():
            role = "embeddings" if "embed" in name else "matrices" if p.ndim == 2 else "scalars"
            found[role].append((name, p))
        return found


def build(model: Model, *specs: Mapping[str, Any] | str | Spec) -> OptimizerSet:
    return OptimizerSet.build(model.groups(), specs)


def backward(model: Model, step: int) -> None:
    ids = torch.randint(10, (4, 8), generator=torch.Generator().manual_seed(step))
    model.zero_grad()
    nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.roll(1).flatten()).backward()


def train(model: Model, optimizers: OptimizerSet, steps: range) -> None:
    for step in steps:
        optimizers.set_rates(1 - step / 20)
        backward(model, step)
        optimizers.step(clip=0.5)
        optimizers.zero_grad()


def saved(optimizers: OptimizerSet) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a checkpoint would give back: copies, and JSON that went through text."""
    tensors = {key: t.clone() for key, t in optimizers.state_tensors().items()}
    return tensors, json.loads(json.dumps(optimizers.state_meta()))


def copied(model: Model, **options: Any) -> Model:
    other = Model(**options)
    other.load_state_dict(model.state_dict())
    return other


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    theirs = dict(b.named_parameters())
    for name, p in a.named_parameters():
        assert torch.equal(p, theirs[name]), name


# --- building ---------------------------------------------------------------------------------


def test_every_parameter_is_in_one_optimizer_and_all_learn() -> None:
    model = Model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = build(model, MUON, ADAMW)
    assert sorted(map(id, optimizers.parameters())) == sorted(map(id, model.parameters()))
    assert list(optimizers.rates) == ["Muon/matrices", "AdamW"]
    train(model, optimizers, range(1))
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_no_decay_makes_a_second_group() -> None:
    optimizers = build(Model(), MUON, {**ADAMW, "weight_decay": 0.3})
    decay, none = optimizers.members[1].optimizer.param_groups
    assert (decay["param_names"], decay["weight_decay"]) == (["embed.weight"], 0.3)
    assert (none["param_names"], none["weight_decay"]) == (["up.bias", "down.bias"], 0.0)


def test_frozen_parameters_do_not_move_and_an_idle_optimizer_is_left_out() -> None:
    model = Model()
    model.embed.weight.requires_grad_(False)
    before = model.embed.weight.clone()
    optimizers = build(model, {**SGD, "params": "embeddings"}, {**ADAMW, "weight_decay": 1.0})
    assert [member.position for member in optimizers.members] == [1]
    train(model, optimizers, range(2))
    assert torch.equal(model.embed.weight, before)


def test_torchs_optimizers_are_fused_unless_told_otherwise() -> None:
    def fused(spec: Mapping[str, Any]) -> Any:
        return build(Model(), spec).members[0].optimizer.param_groups[0]["fused"]

    assert all(fused(spec) for spec in (ADAMW, SGD, ADAGRAD))
    assert fused({**ADAMW, "foreach": True}) is None
    assert fused({**ADAMW, "fused": False}) is False


def test_two_of_a_kind_are_told_apart() -> None:
    first, second = {**SGD, "params": ["matrices"]}, {**ADAMW, "params": ["scalars", "*"]}
    assert list(build(Model(), first, second).rates) == ["SGD/matrices", "AdamW/scalars+*"]
    same = build(Model(), {**SGD, "params": "embed*"}, {**SGD, "params": "up*"}, "torch.optim.SGD")
    assert list(same.rates) == ["SGD/embed*", "SGD/up*", "SGD"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Spec("torch.optim.AdamW", {"learning_rate": 1}, Place("x.yaml", 3)),
         "x.yaml:3: torch.optim.AdamW takes no 'learning_rate'"),
        (Spec("torch.optim.AdamW", {"lr": -1.0}, Place("x.yaml", 3)), "x.yaml:3: .*learning rate"),
        (Spec("lmkit.optim.muon.Muon", at=Place("x.yaml", 3)), "x.yaml:3: .*up.bias has shape"),
        (Spec("torch.optim.Rprop", {"no_decay": ["scalars"]}), "Rprop has no weight_decay"),
        (Spec("torch.optim.AdamW", {"no_decay": ["scalers"]}), "did you mean 'scalars'"),
    ],
)  # fmt: skip
def test_errors_name_the_place(spec: Spec, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(Model(), spec)


def test_a_class_that_is_no_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ModuleType("own_optim")
    own.Nothing = lambda params: object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_optim", own)
    with pytest.raises(ConfigError, match="own_optim.Nothing is no torch.optim.Optimizer"):
        build(Model(), "own_optim.Nothing")


# --- stepping ---------------------------------------------------------------------------------


def test_rates_follow_the_multiplier_from_where_they_began() -> None:
    optimizers = build(Model(), MUON, ADAMW)
    for multiplier in (0.5, 0.1, 1.0):
        optimizers.set_rates(multiplier)
        expected = {"Muon/matrices": 0.05 * multiplier, "AdamW": 1e-2 * multiplier}
        assert optimizers.rates == pytest.approx(expected)


def test_clipping_is_by_the_norm_over_all_optimizers() -> None:
    model = Model()
    optimizers = build(model, MUON, ADAMW)
    backward(model, 0)
    before = [p.grad.clone() for p in model.parameters()]
    norm = math.sqrt(sum(float(g.square().sum()) for g in before))
    assert float(optimizers.grad_norm()) == pytest.approx(norm, rel=1e-5)
    assert float(optimizers.step(clip=norm / 4)) == pytest.approx(norm, rel=1e-5)
    for p, g in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, g / 4)
    assert optimizers.step(clip=norm) is not None
    torch.testing.assert_close(model.up.weight.grad, before[1] / 4)  # below the limit: untouched


def test_without_clip_no_norm_is_taken_and_gradients_stay() -> None:
    model = Model()
    optimizers = build(model, ADAMW)
    backward(model, 0)
    before = model.up.weight.grad.clone()
    assert optimizers.step() is None
    assert torch.equal(model.up.weight.grad, before)
    optimizers.zero_grad()
    assert model.up.weight.grad is None


# --- state ------------------------------------------------------------------------------------


class Odd(torch.optim.Optimizer):
    """Keeps what others do not: lists, a counter in its group, a plain number in its state."""

    def __init__(self, params: Any, lr: float = 0.1, history: int = 2) -> None:
        super().__init__(params, {"lr": lr, "history": history})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for p in group["params"]:
                state = self.state[p]
                state["past"] = [p.grad.clone(), *state.get("past", [])][: group["history"]]
                state["scale"] = state.get("scale", 1.0) * 0.9
                p.sub_(sum(state["past"]) * state["scale"] * group["lr"] / group["count"])


@pytest.fixture(autouse=True)
def _odd_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("odd")
    module.Odd = Odd  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "odd", module)


SETS = {
    "muon_adamw": [MUON, ADAMW],
    "adamw_loop": [{**ADAMW, "fused": False, "amsgrad": True}],
    "sgd": [SGD],
    "adagrad": [{**ADAGRAD, "initial_accumulator_value": 0.1}],
    "odd": [MUON, {"class": "odd.Odd", "history": 3}],
}


@pytest.mark.parametrize("specs", SETS.values(), ids=SETS)
def test_a_loaded_state_goes_on_to_the_bit(specs: list[dict]) -> None:
    through = Model()
    whole = build(through, *specs)
    train(through, whole, range(4))
    after = copied(through)
    other = build(after, *specs)
    other.load(*saved(whole))
    train(through, whole, range(4, 8))
    train(after, other, range(4, 8))
    assert_equal(through, after)
    assert saved(whole)[1] == saved(other)[1]
    ours, theirs = whole.state_tensors(), other.state_tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(t, theirs[key]) for key, t in ours.items())


def test_without_the_state_it_goes_another_way() -> None:
    through = Model()
    whole = build(through, MUON, ADAMW)
    train(through, whole, range(4))
    after = copied(through)
    train(after, build(after, MUON, ADAMW), range(4, 8))
    train(through, whole, range(4, 8))
    with pytest.raises(AssertionError):
        assert_equal(through, after)


def test_names_and_not_places_carry_the_state() -> None:
    through = Model()
    whole = build(through, SGD)
    train(through, whole, range(4))
    after = copied(through, swapped=True)
    assert [n for n, _ in after.named_parameters()] != [n for n, _ in through.named_parameters()]
    other = build(after, SGD)
    other.load(*saved(whole))
    # the sum inside a norm would see another order, so no clipping here
    for model, optimizers in ((through, whole), (after, other)):
        backward(model, 9)
        optimizers.step()
    assert_equal(through, after)


def test_keys_are_position_name_and_state() -> None:
    model = Model()
    optimizers = build(model, MUON, ADAMW)
    assert optimizers.state_tensors() == {}
    train(model, optimizers, range(1))
    keys = set(optimizers.state_tensors())
    assert {"0/up.weight/momentum", "0/up.weight/second_moment", "1/up.bias/step",
            "1/embed.weight/exp_avg"} <= keys  # fmt: skip
    assert len(keys) == 2 * 2 + 3 * 3


def test_state_keeps_its_dtype_under_weights_in_bf16() -> None:
    model, after = Model().bfloat16(), Model().bfloat16()
    optimizers, other = build(model, MUON, ADAMW), build(after, MUON, ADAMW)
    train(model, optimizers, range(2))
    other.load(*saved(optimizers))
    loaded = other.state_tensors()
    assert loaded["0/up.weight/momentum"].dtype == torch.float32
    for key, t in optimizers.state_tensors().items():
        assert loaded[key].dtype == t.dtype
        assert torch.equal(loaded[key], t)


def test_a_setting_changed_on_purpose_stays_changed() -> None:
    model = Model()
    optimizers = build(model, MUON, ADAMW)
    train(model, optimizers, range(3))
    other = build(model, {**MUON, "lr": 0.5, "momentum": 0.8}, ADAMW)
    other.load(*saved(optimizers))
    muon, adamw = (member.optimizer.param_groups[0] for member in other.members)
    assert (muon["lr"], muon["initial_lr"], muon["momentum"]) == (0.5, 0.5, 0.8)
    assert muon["step"] == 3
    assert adamw["lr"] == pytest.approx(1e-2 * 0.9)
    assert adamw["betas"] == (0.9, 0.999)


def wider(model: Model) -> Model:
    model.up = nn.Linear(6, 13)
    model.down = nn.Linear(13, 6)
    return model


def renamed(model: Model) -> Model:
    model.top = model.up
    del model.up
    return model


@pytest.mark.parametrize(
    ("change", "specs", "said"),
    [
        (lambda m: m, [ADAMW], "optimizers saved are number 0, 1, those here 0"),
        (lambda m: m, [SGD | {"params": "matrices"}, ADAMW], "was lmkit.optim.muon.Muon and is"),
        (lambda m: m, [MUON, {**ADAMW, "no_decay": []}], "AdamW had 2 groups and has 1"),
        (lambda m: m, [{**MUON, "params": "up.weight"}, ADAMW], "it has not, but had down.weight"),
        (lambda m: m, [{**MUON, "params": ["matrices", "embeddings"]}, {**ADAMW, "no_decay": []}],
         "no state was saved for embed.weight"),
        (renamed, [MUON, ADAMW], "no state was saved for top.weight"),
        (wider, [MUON, ADAMW], r"up.weight has shape \[13, 6\], but \[12, 6\] was saved"),
        (lambda m: m.double(), [MUON, ADAMW], "has dtype float64, but float32 was saved"),
    ],
)  # fmt: skip
def test_a_state_of_something_else_is_refused(change: Callable, specs: list, said: str) -> None:
    model = Model()
    optimizers = build(model, MUON, ADAMW)
    train(model, optimizers, range(1))
    other = build(change(Model()), *specs)
    with pytest.raises(CheckpointError, match=said):
        other.load(*saved(optimizers))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.pop("0/up.weight/momentum"), "lacks 0/up.weight/momentum"),
        (lambda t: t.update({"1/x/exp_avg": torch.zeros(1)}), "1/x/exp_avg, which nothing needs"),
        (lambda t: t.update({"1/up.bias/exp_avg": torch.zeros(3)}), r"shape \[3\], but \[12\]"),
        (lambda t: t.update({"1/up.bias/step": torch.zeros((), dtype=torch.int64)}), "dtype int64"),
    ],
)
def test_spoilt_tensors_are_refused(spoil: Callable, said: str) -> None:
    model = Model()
    optimizers = build(model, MUON, ADAMW)
    train(model, optimizers, range(1))
    tensors, meta = saved(optimizers)
    spoil(tensors)
    with pytest.raises(CheckpointError, match=said):
        build(Model(), MUON, ADAMW).load(tensors, meta)


def test_state_that_no_checkpoint_can_hold_is_found_when_building() -> None:
    class Holder(Odd):
        def __init__(self, params: Any) -> None:
            super().__init__(params)
            self.param_groups[0]["helper"] = object()

    sys.modules["odd"].Holder = Holder  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="keeps 0/group 0/helper, of the class object"):
        build(Model(), "odd.Holder")
