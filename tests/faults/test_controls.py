"""Negative controls: a resume that leaves something out must not pass for an exact one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.cli import main
from lmkit.lab.equal_runs import compare_runs
from lmkit.optim import OptimizerSet
from lmkit.train import accumulate
from lmkit.train.progress import Progress
from lmkit.train.runner_base import LMRunnerBase

HALFWAY = 5  # steps; the first stage has 8, and a checkpoint after every second
Break = Callable[[pytest.MonkeyPatch], None]


class PowerCut(BaseException):
    """Nobody catches it."""


@pytest.fixture(scope="module")
def straight(make_experiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    path = make_experiment(tmp_path_factory.mktemp("straight"))
    assert main(["train", str(path)]) == 0
    return path.parent / "run"


def resume(path: Path, patch: pytest.MonkeyPatch, sabotage: Break) -> Path:
    """A run cut off halfway, and gone on with by a program that `sabotage` has been at."""
    train_step = LMRunnerBase.train_step

    def until_halfway(self: Any, *arguments: Any) -> Any:
        if self.progress.step == HALFWAY:
            raise PowerCut
        return train_step(self, *arguments)

    with patch.context() as once:
        once.setattr(LMRunnerBase, "train_step", until_halfway)
        with pytest.raises(PowerCut):
            main(["train", str(path)])
    with patch.context() as from_here:
        sabotage(from_here)
        assert main(["train", str(path)]) == 0
    return path.parent / "run"


def nothing(patch: pytest.MonkeyPatch) -> None:
    """Leave the program as it is."""


def forget_random_numbers(patch: pytest.MonkeyPatch) -> None:
    """Dropout goes on with whatever random numbers come."""
    patch.setattr(accumulate.torch, "manual_seed", lambda seed: None)


def drop_optimizers(patch: pytest.MonkeyPatch) -> None:
    """The optimizers begin anew."""
    patch.setattr(Checkpoint, "load_optimizers", lambda self, optimizers: None)


def swap_state(patch: pytest.MonkeyPatch) -> None:
    """Two parameters of one shape get each other's state, as state by index has it when the
    attributes of a module are reordered."""
    load = OptimizerSet.load

    def swapped(self: Any, tensors: dict[str, Tensor], meta: Any) -> None:
        one, other = "blocks.0.attention_norm.weight", "blocks.0.mlp_norm.weight"
        names = {
            name: name.replace(one, "?").replace(other, one).replace("?", other) for name in tensors
        }
        assert any(old != new for old, new in names.items())
        load(self, {names[name]: tensor for name, tensor in tensors.items()}, meta)

    patch.setattr(OptimizerSet, "load", swapped)


def shift_data(patch: pytest.MonkeyPatch) -> None:
    """The data goes on one row too far."""
    from_state = Progress.from_state

    def shifted(state: dict[str, Any]) -> Progress:
        return from_state({**state, "position": state["position"] + 1})

    patch.setattr(Progress, "from_state", shifted)


def lose_the_schedule(patch: pytest.MonkeyPatch) -> None:
    """The rates are those of a step before."""
    from_state = Progress.from_state

    def late(state: dict[str, Any]) -> Progress:
        return from_state({**state, "stage_step": state["stage_step"] - 1})

    patch.setattr(Progress, "from_state", late)


def differing(one: Path, other: Path) -> set[str]:
    return {each.what for each in compare_runs(one, other) if not each.equal}


def test_an_exact_resume_passes(
    straight: Path, experiment_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not differing(straight, resume(experiment_file, monkeypatch, nothing))


@pytest.mark.parametrize(
    ("sabotage", "betrayed_by"),
    [
        (forget_random_numbers, "losses, norms, rates"),
        (drop_optimizers, "optimizer state"),
        (swap_state, "optimizer state"),
        (shift_data, "ids of all samples"),
        (lose_the_schedule, "losses, norms, rates"),
    ],
)
def test_what_is_left_out_is_noticed(
    straight: Path,
    experiment_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Break,
    betrayed_by: str,
) -> None:
    found = differing(straight, resume(experiment_file, monkeypatch, sabotage))
    assert {betrayed_by, "weights"} <= found
