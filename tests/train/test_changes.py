"""What may change between two starts of a run, what a run keeps, and what is done by hand."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmkit.config import load_experiment
from lmkit.errors import CheckpointError, ConfigError, DataError, ModelError
from lmkit.model import LMBase
from lmkit.text.tokenizer import Byte, Tokenizer
from lmkit.train.loading import load_model
from lmkit.train.runner import BasicModelRunner

ONE_STAGE = ["stages.sft.steps=1", "model=lmkit_models.gpt2.GPT2", "model.embedding_dim=16"]
SMALL = ["model.layers=1", "model.heads=2", "model.max_len=16", "model.dropout=0.0"]


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def start(experiment_file: Path) -> Callable[..., BasicModelRunner]:
    """Run the experiment with overrides, in this process; gives the runner back."""

    def run(*overrides: str, allow: tuple[str, ...] = ()) -> BasicModelRunner:
        words = [*ONE_STAGE, *SMALL, *overrides]
        runner = BasicModelRunner(
            experiment=load_experiment(experiment_file, words), max_batch_size=2, precision="fp32"
        )
        runner.fit(allow)
        return runner

    return run


def lines(runner: BasicModelRunner) -> list[dict[str, Any]]:
    text = (runner.folder.path / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def kept(runner: BasicModelRunner) -> list[int]:
    return [entry.step for entry in runner.checkpoints.entries() if entry.stage == "pretrain"]


class Worse(BasicModelRunner):
    """Finds the second evaluation best, and every later one worse."""

    def evaluate(self, run: Any) -> dict[str, float]:
        found = super().evaluate(run)
        worth = {2: 3.0, 4: 1.0}.get(self.progress.step, 9.0)
        return {**found, "bits_per_byte": worth}


def test_the_best_stays_when_it_was_also_due_and_when_another_stage_follows(
    experiment_file: Path,
) -> None:
    best = "stages.pretrain.checkpoint.best=bits_per_byte"  # the next stage keeps none
    words = ["stages.pretrain.evaluate.every=2", best, "stages.sft.checkpoint.every=1"]
    experiment = load_experiment(experiment_file, [*ONE_STAGE, *SMALL, *words])
    runner = Worse(experiment=experiment, max_batch_size=2, precision="fp32")
    runner.fit()
    assert 4 in kept(runner)
    fourth = next(entry for entry in runner.checkpoints.entries() if entry.step == 4)
    assert fourth.metrics["bits_per_byte"] == 1.0


def test_a_best_that_nothing_measures_is_refused_before_anything_is_written(
    start: Callable[..., BasicModelRunner], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="not measured"):
        start("stages.pretrain.checkpoint.best=accuracy")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def start_alone(experiment_file: Path) -> Callable[..., BasicModelRunner]:
    """The first stage only, with overrides of its keys; gives the runner back."""
    text = experiment_file.read_text()
    first = text[: text.index("  - name: sft")]

    def run(horizon: str, *, allow: tuple[str, ...] = (), **keys: int) -> BasicModelRunner:
        experiment_file.write_text(first.replace("steps: 8", horizon), encoding="utf-8")
        words = ["model=lmkit_models.gpt2.GPT2", "model.embedding_dim=16", *SMALL]
        words += [f"stages.pretrain.{key}={value}" for key, value in keys.items()]
        experiment = load_experiment(experiment_file, words)
        runner = BasicModelRunner(experiment=experiment, max_batch_size=2, precision="fp32")
        runner.fit(allow)
        return runner

    return run


@pytest.mark.parametrize("size", [2, 10])
def test_another_batch_size_goes_on_from_the_rows_already_seen(
    start_alone: Callable[..., BasicModelRunner], size: int
) -> None:
    start_alone("steps: 4")
    runner = start_alone("steps: 9", batch_size=size, allow=("stages.pretrain.batch_size",))
    assert runner.progress.step == 9
    assert runner.progress.position == 4 * 5 + 5 * size


def test_a_longer_run_over_a_ragged_end_skips_no_row(
    start_alone: Callable[..., BasicModelRunner],
) -> None:
    first, second = start_alone("epochs: 0.07"), start_alone("epochs: 0.13")
    assert first.progress.position % 5 != 0
    assert second.progress.position == second.progress.overall.samples
    assert second.progress.position > first.progress.position
    assert [line["step"] for line in lines(second)] == list(range(1, second.progress.step + 1))


def test_a_text_that_changed_is_told_by_its_file(
    start_alone: Callable[..., BasicModelRunner], experiment_file: Path
) -> None:
    start_alone("steps: 2")
    with (experiment_file.parent / "text" / "0.txt").open("a") as file:
        file.write("one more")
    said = r"the contents of text \(stages\.pretrain\.data\) changed; .*"
    with pytest.raises(CheckpointError, match=f"{said} --allow-change stages.pretrain.data$"):
        start_alone("steps: 4")
    assert start_alone("steps: 4", allow=("stages.pretrain.data",)).progress.step == 4


def test_a_stage_added_to_a_run_is_refused_in_one_line(
    start: Callable[..., BasicModelRunner], experiment_file: Path
) -> None:
    start("stages.pretrain.steps=2")
    text = experiment_file.read_text()
    more = text[text.index("  - name: sft") :].replace("name: sft", "name: late")
    experiment_file.write_text(text + more, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"stages\.late"):
        start("stages.pretrain.steps=2")


def test_a_default_of_the_model_is_part_of_a_run(
    start: Callable[..., BasicModelRunner],
) -> None:
    first = start("stages.pretrain.steps=2")
    assert first.checkpoints.entries()[-1].model_arguments["tied"] is True
    start("stages.pretrain.steps=2", "model.tied=true")  # said aloud: the same
    with pytest.raises(CheckpointError, match=r"model\.tied changed"):
        start("stages.pretrain.steps=2", "model.tied=false")


def test_a_changed_precision_that_was_allowed_takes_effect(
    experiment_file: Path, start: Callable[..., BasicModelRunner]
) -> None:
    start("stages.pretrain.steps=2")
    words = [*ONE_STAGE, *SMALL, "stages.pretrain.steps=2", "stages.sft.steps=3"]
    runner = BasicModelRunner(
        experiment=load_experiment(experiment_file, words), max_batch_size=1, precision="bf16"
    )
    runner.fit()
    assert runner.precision.name == "bf16"
    assert runner.micro_batch.rows == 1


class Plain(LMBase):
    """As small as a model gets; `peek` lets it see what comes."""

    def __init__(self, tokenizer: Tokenizer, width: int = 8, peek: bool = False) -> None:
        super().__init__(tokenizer=tokenizer, max_len=16)
        self.embedding = torch.nn.Embedding(tokenizer.vocab_size, width)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(width, tokenizer.vocab_size)
        self.peek = peek
        self.masks: list[Tensor] = []

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        if self.training:
            self.masks.append(self.drop(torch.ones(32)))
        return self.head(x + x.mean(1, keepdim=True) if self.peek else x)


def by_hand(**settings: Any) -> BasicModelRunner:
    runner = BasicModelRunner(Plain, precision="fp32", **settings)
    runner.initialize("cpu", tokenizer=Byte())
    return runner


def test_every_step_by_hand_draws_its_own_dropout() -> None:
    runner = by_hand()
    for _ in range(2):
        runner.train([{"prompt": "a", "truth": "b"}])
    first, second = runner.model.masks
    assert not torch.equal(first, second)


def test_by_hand_a_checkpoint_is_enough(tmp_path: Path) -> None:
    runner = by_hand()
    runner.train(["some text"])
    place = runner.save(tmp_path / "kept")
    again = BasicModelRunner(Plain, precision="fp32")
    again.initialize("cpu", locations=place)
    assert again.progress.step == 1
    torch.testing.assert_close(again.model.head.weight, runner.model.head.weight, rtol=0, atol=0)
    torch.testing.assert_close(load_model(place).head.weight, again.model.head.weight)


def test_places_that_do_not_exist_are_told(caplog: pytest.LogCaptureFixture) -> None:
    runner = BasicModelRunner(Plain, precision="fp32")
    with caplog.at_level(logging.WARNING):
        runner.initialize("cpu", locations=["nowhere"], tokenizer=Byte())
    assert "no checkpoint at nowhere: the weights are new" in caplog.text


def test_no_prompts_are_no_step_and_a_text_is_one_prompt() -> None:
    runner = by_hand()
    with pytest.raises(DataError, match="no prompts"):
        runner.train([])
    assert runner.progress.step == 0
    assert len(runner.train("hello").predictions) == 1
    assert runner.progress.overall.samples == 1


def test_a_model_that_sees_ahead_is_refused() -> None:
    runner = BasicModelRunner(Plain, precision="fp32", overrides={"peek": True})
    with pytest.raises(ModelError, match="not causal"):
        runner.initialize("cpu", tokenizer=Byte())


def test_settings_are_checked_from_python_too() -> None:
    with pytest.raises(ConfigError, match="threads"):
        by_hand(threads=0)
    runner = BasicModelRunner(Plain, precision="bf8")
    with pytest.raises(ConfigError, match="no precision 'bf8'"):
        runner.initialize("cpu", tokenizer=Byte())


def test_weights_are_not_given_to_another_tokenizer(
    experiment_file: Path, lmkit: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    short = ["stages.pretrain.steps=1", "stages.sft.epochs=", "stages.sft.steps=1"]
    assert lmkit("train", experiment_file, *short).returncode == 0
    folder = experiment_file.parent
    # as many ids as Byte has, and other ones
    (folder / "turned.py").write_text(
        "from lmkit.text import Byte\n\n\nclass Turned(Byte):\n"
        "    def encode(self, text, allow_special=False):\n"
        "        return [255 - byte for byte in text.encode()]\n\n"
        "    def vocabulary(self):\n"
        "        *tokens, end = super().vocabulary()\n        return [*reversed(tokens), end]\n"
    )
    start = f"stages.pretrain.init_from={folder}/run"
    other = ["tokenizer=turned.Turned", "name=other", f"out={folder}/other", start]
    done = lmkit("train", experiment_file, *short, *other)
    assert done.returncode == 3, done.stderr
    assert "its tokenizer (257 ids) is not the experiment's (257)" in done.stderr


def test_what_cannot_be_inherited_is_told_before_the_first_step(
    experiment_file: Path, lmkit: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = lmkit("train", experiment_file, "stages.sft.optimizer_state=inherit")
    assert done.returncode == 2
    assert "stage 'sft' cannot inherit the state of the optimizers before it" in done.stderr
    assert not (experiment_file.parent / "run" / "metrics.jsonl").exists()
    done = lmkit("train", experiment_file, "stages.pretrain.optimizer_state=inherit")
    assert "is the first: there is no optimizer state to inherit" in done.stderr
