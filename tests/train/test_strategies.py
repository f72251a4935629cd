"""A run is the same one on 1, 2 and 4 ranks, whatever each keeps, and moves between them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lmkit.config import Spec, Stage
from lmkit.errors import ConfigError
from lmkit.rl.grpo import GRPO
from lmkit.train.objective import Objective
from lmkit.train.strategies import check_settings, check_stage

PROGRAM = Path(__file__).with_name("many_ranks.py")
YAML = """\
name: moved
seed: 3
tokenizer: lmkit.text.tokenizer.Byte
model:
  class: lmkit_models.gpt2.GPT2
  embedding_dim: 16
  layers: 2
  heads: 2
  max_len: 16
  dropout: 0.0
runner: {max_batch_size: 2, precision: fp32, compile: false}
stages:
  - name: some
    data: {class: lmkit.data.sources.TextFiles, path: text, holdout: 0.25}
    steps: 2
    batch_size: 5
    freeze: ["blocks.0.*"]
    optimizers: [{class: torch.optim.SGD, lr: 0.1, momentum: 0.9}]
  - name: all
    data: {class: lmkit.data.sources.TextFiles, path: text, holdout: 0.25}
    steps: 4
    batch_size: 5
    clip: 1.0
    ema: 0.9
    optimizers:
      - {class: lmkit.optim.Muon, params: [matrices], lr: 0.02, weight_decay: 0.1, dtype: float32}
      - {class: lmkit.optim.AdamW, lr: 0.003}
    evaluate: {every: 2, tokens: 64, samples: [one], max_new_tokens: 2}
    checkpoint: {every: 2, keep: 9}
"""
STEPS = 6
# what a model may have and cuts badly: matrices of one row and one column, a weight of two blocks
ODD = """\
from torch import nn

from lmkit_models.gpt2 import GPT2


class Odd(GPT2):
    def __init__(self, tokenizer, embedding_dim, **more):
        super().__init__(tokenizer=tokenizer, embedding_dim=embedding_dim, **more)
        first, second = self.blocks
        first.mlp_in, first.mlp_out = nn.Linear(embedding_dim, 1), nn.Linear(1, embedding_dim)
        second.qkv.weight = first.qkv.weight
"""
SECOND: dict[str, dict[str, Any]] = {  # what a second stage may train on
    "texts": {"data": {"class": "lmkit.data.sources.TextFiles", "path": "text"}},
    "preferences": {
        "data": {
            "class": "lmkit.data.sources.InMemory",
            "prompts": [{"prompt": "a", "chosen": f"b{n}", "rejected": "c"} for n in range(8)],
            "holdout": 0.0,
        },
        "objective": "lmkit.rl.dpo.DPO",
    },
    "answers": {
        "data": {"class": "lmkit.tasks.arithmetic.Arithmetic", "digits": 1, "tools": False},
        "objective": {
            "class": "lmkit.rl.grpo.GRPO",
            "group_size": 4,
            "max_new_tokens": 4,
            "steps_per_rollout": 2,
            "rewards": [{"reward": "early.early"}],
        },
    },
}
EARLY = """\
def early(problem, completion):
    return sum(token < 128 for token in completion.ids) / 4
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "text").mkdir()
    for number in range(8):
        words = " ".join(f"{number} and {i} is {number + i}." for i in range(20))
        (folder / "text" / f"{number}.txt").write_text(words, encoding="utf-8")
    (folder / "moved.yaml").write_text(YAML, encoding="utf-8")
    (folder / "odd.py").write_text(ODD, encoding="utf-8")
    (folder / "early.py").write_text(EARLY, encoding="utf-8")
    odd = YAML.replace("lmkit_models.gpt2.GPT2", "odd.Odd")
    (folder / "odd.yaml").write_text(odd, encoding="utf-8")
    experiment = yaml.safe_load(YAML)
    experiment["model"]["max_len"] = 64
    first, second = experiment["stages"]
    shared = {"batch_size": 4, "optimizers": second["optimizers"]}
    del first["freeze"]
    for name, keys in SECOND.items():
        inherits = {"name": name, "steps": 4, "optimizer_state": "inherit", **shared, **keys}
        stages = {"stages": [{**first, **shared}, inherits]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(experiment | stages), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def train(folder: Path) -> Iterator[Callable[..., None]]:
    """`train(name, ranks, *words)`: `lmkit train` to its end, in a folder of that name; `file` is
    the experiment."""
    with (
        (folder / "said").open("w+", encoding="utf-8") as said,
        subprocess.Popen(
            [sys.executable, str(PROGRAM)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
        ) as program,
    ):  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None

        def run(name: str, ranks: int, *words: str, file: str = "moved") -> None:
            assert program.stdin is not None
            assert program.stdout is not None
            command = ["train", str(folder / f"{file}.yaml"), f"out={folder / name}", *words]
            print(json.dumps([ranks, command]), file=program.stdin, flush=True)
            codes = json.loads(program.stdout.readline() or "[]")
            assert codes == [0] * ranks, (folder / "said").read_text(encoding="utf-8")[-3000:]

        yield run


def steps(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics, of the steps."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "grad_norm" in line]


def last(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's last checkpoint."""
    checkpoint = max((run / "checkpoints").iterdir())
    files = {path.stem: load_file(path) for path in checkpoint.glob("*.safetensors")}
    return {f"{name}/{key}": t for name, file in files.items() for key, t in file.items()}


def same_bits(one: Path, other: Path) -> bool:
    a, b = last(one), last(other)
    logged = [[(s["loss"], s["grad_norm"]) for s in steps(run)] for run in (one, other)]
    return logged[0] == logged[1] and a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)


def move(folder: Path, source: str, target: str, step: int) -> None:
    """A copy of a run as it stood at `step`."""
    if source != target:
        shutil.copytree(folder / source, folder / target)
    for checkpoint in (folder / target / "checkpoints").iterdir():
        if int(checkpoint.name.split("-")[0]) > step:
            shutil.rmtree(checkpoint)


def deviation(run: Path, true: Path) -> float:
    """The greatest relative difference of a loss."""
    pairs = list(zip(steps(run), steps(true), strict=True))
    assert [a["step"] for a, _ in pairs] == list(range(1, STEPS + 1))
    return max(abs(a["loss"] / b["loss"] - 1) for a, b in pairs)


def test_strategies_and_ranks_train_the_same(folder: Path, train: Callable[..., None]) -> None:
    train("ddp1", 1)
    true = last(folder / "ddp1")
    forms = {name: (tensor.shape, tensor.dtype) for name, tensor in true.items()}
    for kind in ("ddp", "sharded", "fsdp"):
        for ranks in (2, 4):
            run = folder / f"{kind}{ranks}"
            train(run.name, ranks, f"runner.strategy={kind}")
            off = deviation(run, folder / "ddp1")
            print(f"{kind} on {ranks} ranks: losses within {off:.1e} of one rank's")
            assert off < 1e-5
            saved = last(run)
            assert {name: (tensor.shape, tensor.dtype) for name, tensor in saved.items()} == forms
            for name, tensor in saved.items():
                torch.testing.assert_close(tensor, true[name], rtol=1e-2, atol=1e-4)
    # each rank steps its share as any would: to the bit
    assert same_bits(folder / "sharded2", folder / "ddp2")
    assert not same_bits(folder / "ddp2", folder / "ddp1")  # that takes reduction: ordered


def test_a_run_moves_between_strategies_and_ranks(folder: Path, train: Callable[..., None]) -> None:
    for source, target, step, kind, ranks in (
        ("ddp1", "moved", 2, "fsdp", 2),  # where a stage ends
        ("moved", "moved", 4, "sharded", 4),
        ("fsdp4", "back", 4, "ddp", 1),
    ):
        move(folder, source, target, step)
        train(target, ranks, f"runner.strategy={kind}")
        assert deviation(folder / target, folder / "ddp1") < 1e-5


def test_ordered_reduction_is_the_same_to_the_bit(folder: Path, train: Callable[..., None]) -> None:
    words = ("runner.reduction=ordered", "model.dropout=0.1")
    for ranks in (1, 2, 4):
        train(f"ordered{ranks}", ranks, *words)
        assert same_bits(folder / f"ordered{ranks}", folder / "ordered1")
    move(folder, "ordered1", "ordered", 4)
    train("ordered", 2, *words)
    assert same_bits(folder / "ordered", folder / "ordered1")


def test_fsdp_computes_in_bf16_and_recomputes(folder: Path, train: Callable[..., None]) -> None:
    words = ("runner.precision=bf16", "runner.activation_checkpointing=true")
    train("bf16", 1, *words)
    train("bf16-2", 2, *words, "runner.strategy=fsdp")
    off = deviation(folder / "bf16-2", folder / "bf16")
    print(f"fsdp in bf16 on two ranks: losses within {off:.1e} of one rank's")
    assert 0 < off < 5e-3


def test_fsdp_cuts_what_is_cut_badly(folder: Path, train: Callable[..., None]) -> None:
    train("odd", 1, file="odd")
    train("odd2", 2, "runner.strategy=fsdp", file="odd")
    assert deviation(folder / "odd2", folder / "odd") < 1e-5
    move(folder, "odd2", "odd-on", 4)
    train("odd-on", 2, "runner.strategy=fsdp", file="odd")
    assert same_bits(folder / "odd-on", folder / "odd2")


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("texts", ["runner.strategy=fsdp"]),
        ("answers", ["runner.strategy=sharded"]),
        ("preferences", ["runner.reduction=ordered"]),
    ],
)
def test_what_a_stage_trains_on_and_inherits_is_the_same(
    second: str, words: list[str], folder: Path, train: Callable[..., None]
) -> None:
    one, two = f"{second}1", f"{second}2"
    train(one, 1, *words, file=second)
    train(two, 2, *words, file=second)
    if second == "preferences":
        assert same_bits(folder / two, folder / one)
    pairs = list(zip(steps(folder / two), steps(folder / one), strict=True))
    assert len(pairs) == STEPS
    for key in ("loss", "grad_norm", "reward", "preference_loss"):
        there = [(a[key], b[key]) for a, b in pairs if key in b]
        assert all(a == pytest.approx(b, rel=1e-4, abs=1e-5) for a, b in there), (key, there)


SETTINGS: dict[str, Any] = {"max_batch_size": 2, "precision": "auto", "compile": "auto"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ddp", "ordered", {"max_batch_size": "auto"}), "must not depend on the memory"),
        (("sharded", "ordered", {}), "use strategy: ddp"),
        (("fsdp", "fast", {"precision": "fp8"}), "use bf16"),
        (("fsdp", "fast", {"compile": True}), "leave compile at auto"),
    ],
)
def test_what_does_not_go_together_is_refused(words: Any, said: str) -> None:
    kind, reduction, changed = words
    with pytest.raises(ConfigError, match=said):
        check_settings(kind, reduction, **(SETTINGS | changed))
    check_settings("ddp", "ordered", **SETTINGS)


@pytest.mark.parametrize(
    ("kind", "reduction", "said"),
    [("fsdp", "fast", "use strategy: sharded"), ("ddp", "ordered", "leave reduction out")],
)
def test_a_stage_that_ranks_cannot_share_so_is_refused(
    kind: Any, reduction: Any, said: str
) -> None:
    spec = Spec.of("lmkit.rl.grpo.GRPO")
    stage = Stage(name="rl", data=spec, steps=1, batch_size=4, objective=spec)
    with pytest.raises(ConfigError, match=said):
        check_stage(kind, reduction, stage, GRPO())
    check_stage("sharded", "fast", stage, GRPO())
    check_stage("fsdp", "fast", replace(stage, objective=None), Objective())
