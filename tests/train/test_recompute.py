"""Blocks that compute twice keep less and give the same gradient, to the bit."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lmkit.errors import ModelError
from lmkit.model import LMBase
from lmkit.ranks.world import World
from lmkit.text import Batch
from lmkit.train.accumulate import LossModule, accumulate
from lmkit.train.precision import Precision
from lmkit.train.recompute import recompute_blocks, recompute_compiled
from lmkit_models.gpt import GPT
from lmkit_models.gpt2 import GPT2
from lmkit_models.mlp import MLP
from lmkit_models.recurrent import GRULM

CPU = torch.device("cpu")
PROGRAM = Path(__file__).with_name("recomputing.py")
MODELS: dict[str, Callable[[], LMBase]] = {
    "gpt": lambda: GPT(
        depth=3, width=32, head_dim=16, max_len=16, vocab_size=50, window_pattern="SL", window=4,
        zero_init=False,
    ),
    "dropout": lambda: GPT2(
        vocab_size=50, embedding_dim=16, layers=3, heads=2, max_len=16, dropout=0.2
    ),
    "recurrent": lambda: GRULM(vocab_size=50, width=16, layers=2, max_len=16, dropout=0.2),
}  # fmt: skip


def make(name: str) -> LMBase:
    torch.manual_seed(0)
    return MODELS[name]()


@pytest.fixture
def batch() -> Batch:
    """Five rows of two documents each, which not every model tells apart."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(50, (5, 17), generator=generator)
    documents = (torch.arange(16) > 6).int().expand(5, 16)
    return Batch(ids[:, :-1], ids[:, 1:], torch.ones(5, 16), documents, count=80, bytes=0)


def gradients(model: LMBase, batch: Batch, precision: str) -> dict[str, Tensor]:
    """Of a step of micro-batches; with dropout, where the model has it."""
    model.train().zero_grad()
    if not model.accepts_documents:
        batch = replace(batch, documents=None)
    accumulate(
        LossModule(model), batch, micro_batch=2, world=World(0, 1, CPU),
        precision=Precision(precision, CPU), seed=7,
    )  # fmt: skip
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(found) == len(list(model.parameters()))
    return found


def assert_equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    assert [name for name in some if not torch.equal(some[name], others[name])] == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_same_to_the_bit(name: str, precision: str, batch: Batch) -> None:
    model = make(name)
    expected = gradients(model, batch, precision)
    names = list(model.state_dict())
    assert recompute_blocks(model) == (2 if name == "recurrent" else 3)
    assert list(model.state_dict()) == names
    assert_equal(gradients(model, batch, precision), expected)


def test_two_ranks_agree_with_themselves(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def kept(model: LMBase, batch: Batch) -> int:
    """Bytes that a forward pass leaves for backward."""
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model.train().loss(batch).total
    size = sum(found.values())
    loss.backward()
    return size


def test_a_block_keeps_nothing_and_computes_twice(batch: Batch) -> None:
    model = make("dropout")
    calls: list[str] = []
    for i, block in enumerate(model.blocks):
        block.mlp_out.register_forward_hook(lambda *_, i=i: calls.append(f"block {i}"))
    before = kept(model, batch)
    assert sorted(calls) == ["block 0", "block 1", "block 2"]
    assert recompute_blocks(model) == 3
    calls.clear()
    assert kept(model, batch) < before / 2
    assert calls == ["block 0", "block 1", "block 2", "block 2", "block 1", "block 0"]
    calls.clear()
    with torch.no_grad():
        model.loss(batch)
    assert calls == ["block 0", "block 1", "block 2"]


def test_a_copy_recomputes_its_own_blocks(batch: Batch) -> None:
    """A reference model is a deep copy; it must not compute with the weights that are trained."""
    model = make("gpt")
    recompute_blocks(model)
    reference = copy.deepcopy(model)
    expected = reference.loss(batch).total.item()
    with torch.no_grad():
        for p in model.blocks.parameters():
            p.mul_(2)
    assert reference.loss(batch).total.item() == expected
    assert model.loss(batch).total.item() != expected


# torch's own, when it traces an autograd.Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_can_be_compiled(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    wanted = "skip_fwd_side_effects_in_bwd_under_checkpoint"
    monkeypatch.setattr(torch._dynamo.config, wanted, False)  # and back to what it was
    model = make("gpt")
    expected = gradients(model, batch, "fp32")
    recompute_blocks(model)
    recompute_compiled()
    model.zero_grad()
    module = LossModule(model)
    module.compile(backend="aot_eager", fullgraph=True)
    (module(batch) / 80).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_a_model_without_blocks_is_told() -> None:
    said = r"MLP has no nn.ModuleList of blocks .*; put its blocks into one, or leave out"
    with pytest.raises(ModelError, match=said):
        recompute_blocks(MLP(vocab_size=50, window=4, nodes=8, max_len=16))
