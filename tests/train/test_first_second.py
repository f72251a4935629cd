"""What is wrong with a run is told in its first second: the model, and every later stage too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from lmkit import BasicModelRunner, LMBase
from lmkit.config import Experiment, Spec, Stage, build, load_experiment
from lmkit.errors import ConfigError, LMKitError, ModelError
from lmkit.text import Byte


class Table(LMBase):
    def __init__(self, tokenizer: Any = None, vocab_size: int = 257, flat: bool = False) -> None:
        super().__init__(tokenizer=tokenizer, max_len=8)
        self.embedding = nn.Embedding(vocab_size, vocab_size)
        self.flat = flat

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.embedding(tokens)
        return logits[:, 0] if self.flat else logits


BAD_MODELS = [
    ({"vocab_size": 100}, "Table has logits for 100 ids, its tokenizer has 257"),
    ({"flat": True}, r"Table.forward gave logits of shape \(1, 257\)"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_MODELS)
def test_a_run_of_a_bad_model_writes_nothing(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    experiment = Experiment(
        name="bad",
        tokenizer=Spec("lmkit.text.tokenizer.Byte"),
        model=Spec(f"{__name__}.Table", arguments),
        stages=(Stage(name="train", data=Spec("lmkit.data.sources.InMemory"), steps=1),),
        out=str(tmp_path / "run"),
    )
    with pytest.raises(ModelError, match=message):
        BasicModelRunner(experiment=experiment).fit()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("arguments", "message"), BAD_MODELS)
def test_nor_is_it_taken_by_hand(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        BasicModelRunner(Table).initialize("cpu", tokenizer=Byte(), **arguments)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.warmpu=0.1", "takes no 'warmpu'; did you mean 'warmup'"),
        ("optimizers=[{class: torch.optim.AdamW, params: [matricse]}]", "did you mean 'matrices'"),
        ("optimizers=[{class: torch.optim.AdamW, rl: 0.1}]", "takes no 'rl'"),
        ("freeze=[tag:nobody]", "no parameter is meant by 'tag:nobody'"),
        ("batch_tokens=17", "no multiple of the model's max_len 16"),
        ("init_from=nowhere/at/all", "there is no such folder"),
    ],
)
def test_a_bad_second_stage_stops_the_first(
    override: str, message: str, experiment_file: Path
) -> None:
    experiment = load_experiment(experiment_file, [f"stages.sft.{override}"])
    with pytest.raises(LMKitError, match=message):
        BasicModelRunner(experiment=experiment).fit()
    assert not (experiment_file.parent / "run").exists()


def test_what_a_later_stage_freezes_is_trained_before(experiment_file: Path) -> None:
    overrides = ["stages.pretrain.steps=1", "stages.sft.freeze=[matrices, head]"]
    experiment = load_experiment(experiment_file, overrides)
    runner = BasicModelRunner(experiment=experiment)
    trained = []

    def watch(stream: Any, run: Any) -> Any:
        trained.append({name for name, p in runner.model.named_parameters() if p.requires_grad})
        return BasicModelRunner.train_step(runner, stream, run)

    runner.train_step = watch  # type: ignore[method-assign]
    runner.fit()
    every = {name for name, _ in runner.model.named_parameters()}
    assert trained[0] == every
    assert trained[-1] < every


def test_the_best_by_a_metric_that_nobody_measures(experiment_file: Path) -> None:
    overrides = [
        "stages.pretrain.evaluate.every=1",
        "stages.pretrain.checkpoint.best=bits_per_bite",
    ]
    experiment = load_experiment(experiment_file, overrides)
    with pytest.raises(ConfigError, match="not measured; did you mean 'bits_per_byte'"):
        BasicModelRunner(experiment=experiment).fit()


class Forgetful(BasicModelRunner):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)


def test_a_runner_that_drops_the_experiment(experiment_file: Path) -> None:
    experiment = load_experiment(experiment_file, [f"runner={__name__}.Forgetful"])
    with pytest.raises(ConfigError, match="Forgetful was given neither .* declare experiment=None"):
        build(experiment.runner, experiment=experiment)
    with pytest.raises(ConfigError, match="names its own model"):
        BasicModelRunner(Table, experiment=experiment)
