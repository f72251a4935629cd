"""The gradient of a global batch is the same however it is cut: micro-batches, ranks, memory."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmkit.errors import ConfigError, NumericError
from lmkit.model import LMBase
from lmkit.optim import OptimizerSet
from lmkit.ranks.world import World
from lmkit.text import Batch
from lmkit.text.tokenizer import Byte
from lmkit.train.accumulate import LossModule, accumulate, micro_batches
from lmkit.train.learner import Learner
from lmkit.train.memory import MicroBatch
from lmkit.train.parameters import named_groups
from lmkit.train.precision import Precision

CPU = torch.device("cpu")


class Tiny(LMBase):
    """An embedding and a head; `limit` rows are all that fit into its memory."""

    def __init__(self, tokenizer: Byte, limit: int = 1000) -> None:
        super().__init__(tokenizer=tokenizer, max_len=32)
        self.embedding = torch.nn.Embedding(tokenizer.vocab_size, 8)
        self.head = torch.nn.Linear(8, tokenizer.vocab_size)
        self.limit = limit

    def forward(self, tokens: Tensor) -> Tensor:
        if len(tokens) > self.limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried too much")
        return self.head(self.embedding(tokens).cumsum(1))


def make_model(**settings: int) -> Tiny:
    torch.manual_seed(3)
    return Tiny(Byte(), **settings).double()


@pytest.fixture
def batch() -> Batch:
    """Seven rows that train 1 to 25 tokens each: a mean of means would be far off."""
    prompts = [{"prompt": "say it: ", "truth": "ab" * n} for n in range(1, 14, 2)]
    return make_model().tokenize(prompts, include_prompts=False)


def gradient(model: Tiny) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def run(model: Tiny, batch: Batch, rows: int) -> float:
    loss = accumulate(
        LossModule(model),
        batch,
        micro_batch=rows,
        world=World(0, 1, CPU),
        precision=Precision("fp32", CPU),
        seed=0,
    )
    return loss.total.item() / loss.count


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_micro_batches_leave_the_gradient_of_the_whole(batch: Batch, rows: int) -> None:
    whole, cut = make_model(), make_model()
    assert run(whole, batch, 7) == pytest.approx(run(cut, batch, rows), rel=1e-6)
    torch.testing.assert_close(gradient(cut), gradient(whole), rtol=1e-10, atol=1e-14)


def test_every_row_is_in_one_micro_batch_and_an_empty_share_in_none(batch: Batch) -> None:
    cut = micro_batches(batch, 3)
    assert [len(part) for part in cut] == [3, 3, 1]
    assert sum(part.count for part in cut) == batch.count
    (blank,) = micro_batches(batch.rows(0, 0), 3)
    assert (len(blank), blank.count, blank.weights.sum().item()) == (1, 0, 0.0)


def make_learner(model: Tiny, limit: int | str = "auto") -> Learner:
    specs = [{"class": "torch.optim.SGD", "lr": 1.0}]
    optimizers = OptimizerSet.build({"all": list(model.named_parameters())}, specs)
    micro_batch = MicroBatch(limit, CPU)  # type: ignore[arg-type]
    micro_batch.choose(32, 7)
    return Learner(model, optimizers, World(0, 1, CPU), Precision("fp32", CPU), micro_batch)


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(batch: Batch) -> None:
    roomy, narrow = make_model(), make_model(limit=2)
    for model in (roomy, narrow):
        make_learner(model).learn(batch, seed=0, clip=None)
    torch.testing.assert_close(narrow.head.weight, roomy.head.weight, rtol=1e-10, atol=1e-14)
    learner = make_learner(narrow)
    learner.learn(batch, seed=0, clip=None)
    assert learner.micro_batch.rows == 2
    with pytest.raises(ConfigError, match="one row does not fit"):
        make_learner(make_model(limit=0)).learn(batch, seed=0, clip=None)


def test_a_step_that_is_not_finite_changes_no_weight(batch: Batch) -> None:
    model = make_model()
    with torch.no_grad():
        model.head.bias[5] = math.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NumericError, match="not stepped"):
        make_learner(model).learn(batch, seed=0, clip=None)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) or name == "head.bias" for name in before)


def test_clipping_scales_the_whole_gradient(batch: Batch) -> None:
    free, clipped = make_model(), make_model()
    before = free.head.weight.detach().clone()
    norm = make_learner(free).learn(batch, seed=0, clip=None).grad_norm
    make_learner(clipped).learn(batch, seed=0, clip=float(norm) / 4)
    moved = (free.head.weight - before) / 4
    torch.testing.assert_close(clipped.head.weight - before, moved, rtol=1e-5, atol=1e-12)


def test_parameters_that_no_gradient_reaches_are_named_once(
    batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model()
    model.spare = torch.nn.Linear(2, 2).double()
    learner = make_learner(model)
    for _ in range(2):
        learner.learn(batch, seed=0, clip=None)
    (record,) = caplog.records
    assert record.getMessage() == "no gradient reaches spare.weight, spare.bias: not trained"
    learner.world = World(0, 2, CPU)  # DDP would hang or fail later, with less to go by
    with pytest.raises(ConfigError, match=r"spare\.weight, spare\.bias"):
        learner.agree_on_micro_batch(batch)


def test_compiling_takes_one_graph_for_all_batches(batch: Batch) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = make_model()
    module = LossModule(model)
    module.compile(backend="aot_eager", fullgraph=True)  # in place, as Learner does
    compiled = [module(batch.rows(at, at + 3)).item() for at in range(4)]
    assert compiled == [model.loss(batch.rows(at, at + 3)).total.item() for at in range(4)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert list(model.state_dict()) == list(make_model().state_dict())


def losses(run: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines]


def test_two_ranks_train_as_one_does(
    experiment_file: Path,
    environment: dict[str, str],
    lmkit: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    # dropout draws other numbers on another rank; five rows on two ranks are ragged as it is
    common = [str(experiment_file), "model.dropout=0"]
    alone = lmkit("train", *common, "name=alone", f"out={experiment_file.parent}/alone")
    assert alone.returncode == 0, alone.stderr
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    both = subprocess.run(
        [*launcher, "-m", "lmkit", "train", *common, "name=alone"],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert both.returncode == 0, both.stderr
    one, two = losses(experiment_file.parent / "alone"), losses(experiment_file.parent / "run")
    assert len(one) == len(two) == 16
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-4)


def test_where_nothing_is_to_be_learned_no_weight_moves(batch: Batch) -> None:
    model = make_model()
    specs = [{"class": "torch.optim.AdamW", "lr": 0.1, "weight_decay": 0.5}]
    optimizers = OptimizerSet.build(named_groups(model), specs)
    micro_batch = MicroBatch(4, CPU)
    micro_batch.rows = 4
    learner = Learner(model, optimizers, World(0, 1, CPU), Precision("fp32", CPU), micro_batch)
    learner.learn(batch, seed=0, clip=None)  # from here on there are momenta
    before = [parameter.clone() for parameter in model.parameters()]
    silent = replace(batch, weights=torch.zeros_like(batch.weights))
    step = learner.learn(silent, seed=1, clip=None)
    assert step.grad_norm == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
