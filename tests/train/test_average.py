"""WeightAverage: what it averages, that it gives the weights back to the bit, that it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lmkit.checkpoints.directory import CheckpointDir
from lmkit.cli import main
from lmkit.lab.equal_runs import compare_runs
from lmkit.train.average import WeightAverage
from lmkit.train.loading import load_model
from lmkit.train.runner_base import LMRunnerBase


def model_and_steps() -> tuple[nn.Module, list[list[Tensor]]]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, [[torch.randn_like(p) for p in model.parameters()] for _ in range(6)]


def averages(average: WeightAverage, model: nn.Module) -> dict[str, Tensor]:
    return average.in_place_of(model.state_dict(keep_vars=True))


@torch.no_grad()
def walk(model: nn.Module, changes: list[list[Tensor]], average: WeightAverage) -> None:
    for change in changes:
        for p, by in zip(model.parameters(), change, strict=True):
            p += by
        average.update()


def test_it_is_the_exponential_average_with_a_short_memory_at_first() -> None:
    model, changes = model_and_steps()
    expected = model.weight.detach().double()
    average = WeightAverage(model, decay=0.3)
    weight = expected.clone()
    for step, (change, _) in enumerate(changes, start=1):
        weight += change.double()
        keep = min(0.3, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * weight
    walk(model, changes, average)
    assert (1 + 1) / (10 + 1) < 0.3 < (1 + 6) / (10 + 6)  # both rules were in use
    torch.testing.assert_close(averages(average, model)["weight"], expected.float())


def test_the_model_has_it_for_a_while_and_its_own_weights_after_it() -> None:
    model, changes = model_and_steps()
    average = WeightAverage(model, decay=0.9)
    walk(model, changes, average)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = averages(average, model)
    with average.applied():
        assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters())
        assert not torch.equal(model.weight, before["weight"])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_it_goes_on_to_the_bit_where_the_model_comes_with_the_average() -> None:
    straight, changes = model_and_steps()
    whole = WeightAverage(straight, decay=0.9)
    walk(straight, changes, whole)

    model, _ = model_and_steps()
    begun = WeightAverage(model, decay=0.9)
    walk(model, changes[:3], begun)
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    begun.adopt()  # as a checkpoint has it
    resumed = WeightAverage(model, decay=0.9, step=3)
    model.load_state_dict(trained)
    walk(model, changes[3:], resumed)
    found, expected = averages(resumed, model), averages(whole, straight)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert torch.equal(model.weight, straight.weight)


def test_what_is_frozen_has_none_and_a_tied_name_has_the_same() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    model["b"].bias.requires_grad_(False)
    average = WeightAverage(model, decay=0.9)
    found = averages(average, model)
    assert found["a.weight"] is found["b.weight"] is not model["a"].weight
    assert found["b.bias"] is model["b"].bias


class PowerCut(BaseException):
    """Nobody catches it."""


def test_a_run_cut_off_goes_on_to_the_bit_and_hands_on_the_average(
    make_experiment: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: make_experiment(tmp_path / name) for name in ("straight", "cut")}
    words = ["stages.pretrain.ema=0.8", "stages.sft.ema=0.5"]
    assert main(["train", str(files["straight"]), *words]) == 0
    train_step = LMRunnerBase.train_step
    for halfway in (5, 13):  # in the first stage, in the second
        with monkeypatch.context() as once:

            def until(self: Any, *arguments: Any, halfway: int = halfway) -> Any:
                if self.progress.step == halfway:
                    raise PowerCut
                return train_step(self, *arguments)

            once.setattr(LMRunnerBase, "train_step", until)
            with pytest.raises(PowerCut):
                main(["train", str(files["cut"]), *words])
    assert main(["train", str(files["cut"]), *words]) == 0
    straight, cut = (file.parent / "run" for file in files.values())
    compared = compare_runs(straight, cut)
    assert [each.what for each in compared if not each.equal] == []
    assert "weights behind the average" in [each.what for each in compared]

    # what is loaded is the average, and so is what the second stage began with
    ends = [entry.folder for entry in CheckpointDir(straight / "checkpoints").entries()]
    found = [
        (load_file(end / "model.safetensors"), load_file(end / "trained.safetensors"))
        for end in ends
    ]
    for average, trained in found:
        name = "blocks.0.attention_norm.weight"
        assert not torch.equal(average[name], trained[name])
    average, trained = found[-1]
    model = load_model(straight, trust_code=True, precision="fp32")
    assert torch.equal(dict(model.named_parameters())[name], average[name])


def test_no_average_of_the_whole_past_or_of_none_of_it(
    experiment_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(experiment_file), "stages.pretrain.ema=1.0"]) == 2
    assert "ema must lie between 0 and 1, not at 1.0" in capsys.readouterr().err
