"""Which precision a run has, and what fp8 does to a model that is trained."""

from __future__ import annotations

import pytest
import torch

from lmkit.errors import ConfigError
from lmkit.nn.float8 import Float8Linear
from lmkit.optim import OptimizerSet
from lmkit.ranks.world import World
from lmkit.text.tokenizer import Byte
from lmkit.train.learner import Learner
from lmkit.train.memory import MicroBatch
from lmkit.train.parameters import named_groups
from lmkit.train.precision import Precision, choose
from lmkit_models.gpt import GPT
from lmkit_models.recurrent import GRULM

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_fp8_is_for_hardware_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"8\.9.* or newer, which cpu is not; use bf16"):
        choose("fp8", CPU)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ConfigError, match="which cuda:0 is not"):
        choose("fp8", CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose("fp8", CUDA) == "fp8"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.raises(ConfigError, match="which cuda:0 is not"):
        choose("fp8", CUDA)


def test_a_model_without_blocks_has_nothing_for_fp8() -> None:
    model = GRULM(tokenizer=Byte(), width=16, max_len=16)
    with pytest.raises(ConfigError, match="nothing to do"):
        Precision("fp8", CPU).prepare(model)
    Precision("bf16", CPU).prepare(model)


@pytest.mark.skipif(not hasattr(torch, "_scaled_mm"), reason="this torch has no _scaled_mm")
def test_fp8_learns_as_bf16_does_and_is_not_in_the_checkpoint() -> None:
    last = {}
    for name in ("bf16", "fp8"):
        torch.manual_seed(0)
        model = GPT(depth=1, width=32, head_dim=16, max_len=32, tokenizer=Byte())
        names = list(model.state_dict())
        batch = model.tokenize(["the cow gives milk, and "] * 2)
        optimizers = OptimizerSet.build(named_groups(model), model.default_optimizers(64, 20))
        micro_batch = MicroBatch(2, CPU)
        micro_batch.choose(batch.width, 2)
        precision = Precision(name, CPU)
        learner = Learner(model, optimizers, World(0, 1, CPU), precision, micro_batch)
        for step in range(12):
            loss = learner.learn(batch, seed=step, clip=None).loss
        last[name] = loss.total.item() / loss.count
        eights = [m for m in model.modules() if isinstance(m, Float8Linear)]
        assert len(eights) == (6 if name == "fp8" else 0)
        assert list(model.state_dict()) == names
    assert last["fp8"] < 2.0 < 5.5  # it begins at the logarithm of 257
    assert last["fp8"] != last["bf16"]
    assert last["fp8"] == pytest.approx(last["bf16"], rel=0.1)
