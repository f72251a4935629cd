"""lmkit's training as a contestant: its own fit, paused; and the rows that the peers get of it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.rows import UNCOUNTED, Rows, lay_out
from benchmarks.shapes import SHAPES, experiment, gpt, gpt2
from benchmarks.share import Share
from benchmarks.training import PausingRunner, Training
from lmkit.errors import ConfigError
from lmkit.text import Batch
from lmkit.train.stage_run import StageRun

TINY = SHAPES["tiny"]


def test_training_and_the_rows_of_it(text: str, tmp_path: Path) -> None:
    table = experiment(TINY, gpt2(TINY), steps=2, text=text, evaluate={"tokens": 200})
    lay_out(table, 2).save(tmp_path / "rows.npz")
    rows = Rows.read(tmp_path / "rows.npz")
    assert rows.inputs.shape == rows.targets.shape == (8, TINY.context)
    seen: list[Batch] = []

    def watch(runner: PausingRunner, run: StageRun) -> None:
        learn = runner.learner.learn

        def remembering(batch: Batch, **more: Any) -> object:
            seen.append(batch)
            return learn(batch, **more)

        runner.learner.learn = remembering  # type: ignore[method-assign, assignment]

    def by_hand(runner: PausingRunner, run: StageRun) -> float:
        """The same bits per byte, from the rows' file."""
        with torch.no_grad(), runner.precision.autocast():
            logits = runner.model(torch.from_numpy(rows.held_inputs).long()).float()
        targets = torch.from_numpy(rows.held_targets).long()
        loss = torch.nn.CrossEntropyLoss(ignore_index=UNCOUNTED, reduction="sum")
        return rows.bits_per_byte(loss(logits.flatten(0, 1), targets.flatten()).item())

    with closing(Training(table)) as training:
        training.do(watch)
        before = training.bits_per_byte()
        training.step()
        training.step()
        after = training.bits_per_byte()
        assert after < before
        assert after == pytest.approx(training.do(by_hand), rel=2e-3)  # bf16
        assert training.parameters == training.do(lambda runner, _: runner.model.parameter_count())
        assert training.do(lambda _, run: run.step) == 2
        folder = training.do(lambda runner, _: runner.folder.path)
        with pytest.raises(RuntimeError, match="no step of the stage is left"):
            training.step()
    inputs = torch.cat([batch.inputs for batch in seen])
    targets = torch.cat([batch.targets for batch in seen])
    assert torch.equal(inputs, torch.from_numpy(rows.inputs).long())
    assert torch.equal(targets, torch.from_numpy(rows.targets).long())
    assert not folder.exists()


def test_an_error_of_the_run_is_the_contestants(text: str) -> None:
    table = experiment(TINY, gpt(TINY), steps=1, text=text)
    with pytest.raises(ConfigError, match="did you mean 'depth'"):
        Training(table, ["model.dept=3"])


def test_closing_in_the_midst(text: str) -> None:
    training = Training(experiment(TINY, gpt(TINY), steps=100, text=text))
    folder = training.do(lambda runner, _: runner.folder.path)
    training.step()
    training.close()
    assert not folder.exists()


def test_the_share_of_a_step(text: str) -> None:
    table = experiment(TINY, gpt(TINY), steps=100, text=text)
    with closing(Share("benchmarks.training.Training", {"table": table})) as share:
        measure = share.round(0.0)
        assert measure.amount == 2 * TINY.batch_tokens
        assert 0 < measure.more["optimizers"] < 1
        assert 0 < measure.more["framework"] < 1 - measure.more["optimizers"]
        assert all(seconds > 0 for seconds in share._spent.values())  # each part was timed


@pytest.mark.parametrize(
    ("name", "gigaflops"), [("4x256", 0.0283), ("6x384", 0.0802), ("124m", 0.855), ("d20", 3.24)]
)
def test_flops_a_token(name: str, gigaflops: float) -> None:
    assert SHAPES[name].flops_per_token / 1e9 == pytest.approx(gigaflops, rel=2e-3)


def test_the_loss_of_gpt2_must_see_the_whole_vocabulary() -> None:
    assert [name for name, shape in SHAPES.items() if not shape.suits_gpt2] == ["d20"]
    assert not replace(TINY, vocabulary=8192).suits_gpt2
