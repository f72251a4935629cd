"""The peers' trainers, over stand-ins of the peers: batches, schedules, held-out loss."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers.nanochat import Nanochat
from benchmarks.peers.nanogpt import NanoGPT
from benchmarks.rows import UNCOUNTED, Rows
from benchmarks.shapes import Shape

SHAPE = Shape(2, 8, 4, 16, vocabulary=10, micro_rows=3)  # a step is 4 rows, in 3 and 1

MODEL = """\
import torch
from torch import nn
from torch.nn import functional as F

class GPTConfig:
    def __init__(self, **settings):
        vars(self).update(settings)

class Table(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.seen = config, []
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)

    def loss(self, inputs, targets, reduction):
        self.seen.append(inputs)
        logits = self.table(inputs).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction=reduction)
"""
NANOGPT = (
    MODEL
    + """
class GPT(Table):
    def forward(self, inputs, targets):
        return None, self.loss(inputs, targets, "mean")

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        self.asked = (weight_decay, learning_rate, betas, device_type)
        return torch.optim.SGD(self.parameters(), lr=learning_rate)
"""
)
NANOCHAT = (
    MODEL
    + """
class GPT(Table):
    def forward(self, inputs, targets, loss_reduction="mean"):
        return self.loss(inputs, targets, loss_reduction)

    def init_weights(self):
        nn.init.normal_(self.table.weight)

    def num_scaling_params(self):
        return {"transformer_matrices": self.config.n_layer * self.config.n_embd, "lm_head": 0}

    def setup_optimizer(self, **rates):
        self.asked = rates
        optimizer = torch.optim.SGD(self.parameters(), lr=rates["matrix_lr"])
        optimizer.param_groups[0].update(kind="muon", initial_lr=rates["matrix_lr"])
        return optimizer
"""
)


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "model.py").write_text(NANOGPT)
    (tmp_path / "nanochat").mkdir()
    (tmp_path / "nanochat" / "gpt.py").write_text(NANOCHAT)
    monkeypatch.setattr(torch, "compile", lambda model, **settings: model)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "model", raising=False)  # another test's may have its name
    before = set(sys.modules)
    yield tmp_path
    for name in {"model", "nanochat", "nanochat.gpt"} & (set(sys.modules) - before):
        del sys.modules[name]


@pytest.fixture
def rows(tmp_path: Path) -> str:
    draw = np.random.default_rng(0)
    inputs, targets = draw.integers(0, 10, (2, 8, 4)).astype(np.int32)
    held, held_targets = draw.integers(0, 10, (2, 3, 4)).astype(np.int32)
    held_targets[0] = UNCOUNTED
    Rows(inputs, targets, held, held_targets, held_bytes=20).save(tmp_path / "rows.npz")
    return os.fspath(tmp_path / "rows.npz")


def make(name: str, peers: Path, rows: str, **more: object) -> NanoGPT | Nanochat:
    if name == "nanogpt":
        return NanoGPT(str(peers), rows, SHAPE, device="cpu", steps=1000, bf16=False)
    return Nanochat(str(peers), rows, SHAPE, device="cpu", steps=1000, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["nanogpt", "nanochat"])
def test_batches_go_round_and_round(name: str, peers: Path, rows: str) -> None:
    peer = make(name, peers, rows)
    for _ in range(3):
        peer.step()
    seen = peer.model.seen
    assert [len(inputs) for inputs in seen] == [3, 1] * 3
    inputs = torch.from_numpy(Rows.read(rows).inputs).long()
    assert torch.equal(torch.cat(seen), torch.cat([inputs, inputs[:4]]))


@pytest.mark.parametrize("name", ["nanogpt", "nanochat"])
def test_bits_per_byte(name: str, peers: Path, rows: str) -> None:
    peer = make(name, peers, rows)
    with torch.no_grad():
        peer.model.table.weight.zero_()  # every id equally likely
    assert peer.parameters == 100
    # two of the three rows are counted: 8 targets of log2(10) bits, over 20 bytes
    assert peer.bits_per_byte() == pytest.approx(8 * np.log2(10) / 20)
    assert peer.model.training


def test_nanogpts_rates(peers: Path, rows: str) -> None:
    peer = make("nanogpt", peers, rows)
    assert peer.model.asked == (0.1, 1e-3, (0.9, 0.99), "cpu")
    found = {}
    for step in (0, 99, 100, 550, 1000):
        peer.steps_done = step
        peer.step()
        found[step] = peer._optimizer.param_groups[0]["lr"] * 1e3
    expected = {0: 1 / 101, 99: 100 / 101, 100: 1.0, 550: 0.55, 1000: 0.1}
    assert found == pytest.approx(expected)


def test_nanochats_rates(peers: Path, rows: str) -> None:
    peer = make("nanochat", peers, rows, rates=4.0)
    batch = (16 / 2**19) ** 0.5
    assert peer.model.asked == pytest.approx(
        {
            "unembedding_lr": 0.008 * 4 * batch,
            "embedding_lr": 0.3 * 4 * batch,
            "scalar_lr": 0.5 * 4 * batch,
            "matrix_lr": 0.02 * 4 * batch,
            "weight_decay": 0.28 * batch * (12 * 768) / (2 * 8),
        }
    )
    group = peer._optimizer.param_groups[0]
    found = {}
    for step in (0, 100, 400, 675, 1000):
        peer.steps_done = step
        peer.step()
        decay = group["weight_decay"] / peer.model.asked["weight_decay"]
        found[step] = (group["lr"] / group["initial_lr"], group["momentum"], decay)
    # rate: 40 steps up, from 350 on down to a twentieth; momentum; the decay's cosine
    expected = {
        0: (1 / 40, 0.85, 1.0),
        100: (1.0, 0.88, 0.5 + 0.5 * np.cos(0.1 * np.pi)),
        400: (0.05 + 0.95 * 600 / 650, 0.97 - 0.07 * 50 / 650, 0.5 + 0.5 * np.cos(0.4 * np.pi)),
        675: (0.525, 0.935, 0.5 + 0.5 * np.cos(0.675 * np.pi)),
        1000: (0.05, 0.90, 0.0),
    }
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, abs=1e-9)
