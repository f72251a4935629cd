"""Code written for lmkit's two ancestors, LMPlay and pytorch_template, carries over."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch
from torch import Tensor

from lmkit.config import build, load_experiment
from lmkit.model import LMBase
from lmkit.text import Tiktoken
from lmkit.train.loading import load_model
from lmkit.train.runner import BasicModelRunner

# The shape of a model in LMPlay's docs/models.md: two calls to the base with its own names, a
# tiktoken Encoding of its own, and a cache that is a list of [k, v], one a layer.
LMPLAY_MODEL = """
import tiktoken
import torch
from lmplay.base.base_model import LMBase
from torch import nn


class Attention(nn.Module):
    def __init__(self, embed_dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x, cache=None):
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.num_heads, -1).transpose(1, 2)
                   for y in self.qkv(x).chunk(3, dim=-1))
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        mask = torch.ones(t, k.size(2), dtype=torch.bool).tril(k.size(2) - t)
        scores = (q @ k.transpose(-2, -1) / q.size(-1) ** 0.5).masked_fill(~mask, float("-inf"))
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))


class MyModel(LMBase):
    def __init__(self, max_len=1024, embed_dim=768, num_heads=2, num_blocks=2, **kwargs):
        super().__init__(
            name="my_model",
            max_len=max_len,
            embed_dim=embed_dim,
            **kwargs
        )
        self.tokenizer = tiktoken.get_encoding("gpt2")
        vocab_size = self.tokenizer.n_vocab
        self.tok_embed = nn.Embedding(vocab_size, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, max_len, embed_dim))
        self.blocks = nn.ModuleList(Attention(embed_dim, num_heads) for _ in range(num_blocks))
        self.ln = nn.LayerNorm(embed_dim)
        self.fc = nn.Linear(embed_dim, vocab_size)

    def forward(self, x, cache=None):
        start = cache[0][0].size(2) if cache else 0
        x = self.tok_embed(x) + self.pos_embed[:, start:start + x.size(1)]
        for i, block in enumerate(self.blocks):
            if cache is not None and i == len(cache):
                cache.append([])
            x = x + block(x, cache[i] if cache is not None else None)
        x = self.ln(x)
        if cache is None:
            return self.fc(x)
        return self.fc(x[:, -1:, :]), cache
"""
SAMPLES = [
    {"prompt": "What is a byte?", "truth": " Eight bits."},
    {"prompt": "And a nibble, which is smaller?", "truth": " Half a byte."},
    {"prompt": "Say yes.", "truth": " Yes."},
]
SMALL = {"max_len": 24, "embed_dim": 16}


@pytest.fixture
def my_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The class as LMPlay would have it, but for the line that imports its base."""
    gpt2 = Tiktoken("gpt2").encoding  # tiktoken itself would download it
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: {"gpt2": gpt2}[name])
    file = tmp_path / "lmplay_model.py"
    file.write_text(LMPLAY_MODEL.replace("from lmplay.base.base_model import", "from lmkit import"))
    spec = importlib.util.spec_from_file_location("lmplay_model", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lmplay_model", module)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return module.MyModel


def test_an_lmplay_model_trains(my_model: Any) -> None:
    model = my_model(**SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        predictions, loss, token_count = model.train_prompts(SAMPLES, include_prompts=False)
        (loss / token_count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item() / token_count)
    encode = model.tokenizer.encode
    assert token_count == sum(len(encode(sample["truth"])) + 1 for sample in SAMPLES)
    assert losses[-1] < 0.8 * losses[0]
    assert len(predictions) == len(SAMPLES)
    assert all(isinstance(text, str) for text in predictions)


def test_an_lmplay_model_generates(my_model: Any) -> None:
    model = my_model(**SMALL).eval()
    prompts = [*SAMPLES, {"prompt": "a prompt that is longer than the context " * 4}]
    together = model.generate_prompts(prompts, max_new_tokens=6)
    assert together == [model.generate_prompts([prompt], max_new_tokens=6)[0] for prompt in prompts]
    ids: Tensor = torch.tensor([model.tokenizer.encode("Say yes. Say")])
    logits, cache = model(ids, cache=[])  # its own cache goes on working by hand
    assert logits.shape == (1, 1, 50257)
    assert len(cache) == 2
    torch.testing.assert_close(logits[:, 0], model.logits(ids)[:, -1])


def test_the_basic_runner_needs_no_yaml(my_model: Any, tmp_path: Path) -> None:
    runner = BasicModelRunner(my_model, max_batch_size=2, overrides={"embed_dim": 8})
    runner.initialize("cpu", locations=[], for_train=True, max_len=24, embed_dim=32, num_blocks=1)
    assert runner.model.init_kwargs["embed_dim"] == 8
    first = runner.validate(SAMPLES)
    for _ in range(5):
        predictions, loss, token_count = runner.train(SAMPLES, actual_samples_read=len(SAMPLES))
    assert len(predictions) == len(SAMPLES)
    predictions, loss, token_count = runner.validate(SAMPLES, actual_samples_read=len(SAMPLES))
    assert not loss.requires_grad
    assert token_count == first.token_count
    assert loss < first.loss
    written = runner.generate(["Say yes.", "What"], max_new_tokens=4)
    assert len(written) == 2

    runner.save(str(tmp_path / "full"))
    again = BasicModelRunner(my_model, max_batch_size=1)
    again.initialize("cpu", locations=[str(tmp_path / "none"), str(tmp_path / "full")])
    assert again.generate(["Say yes.", "What"], max_new_tokens=4) == written
    # the optimizer's state came along: the next step is the same for both
    torch.testing.assert_close(again.train(SAMPLES).loss, runner.train(SAMPLES).loss)
    torch.testing.assert_close(again.validate(SAMPLES).loss, runner.validate(SAMPLES).loss)

    runner.save(str(tmp_path / "small"), prod_save=True)
    size = {
        name: sum(file.stat().st_size for file in (tmp_path / name).rglob("*.safetensors"))
        for name in ("full", "small")
    }
    assert 2 * size["small"] < size["full"]
    for_use = BasicModelRunner(my_model)
    for_use.initialize("cpu", locations=str(tmp_path / "small"), for_train=False)
    after = runner.generate(["Say yes.", "What"], max_new_tokens=4)
    assert for_use.generate(["Say yes.", "What"], max_new_tokens=4) == after


# As in pytorch_template's configs: a bare string for a class in the model.py beside the file.
TEMPLATE_MODEL = """
from torch import nn

from lmkit import LMBase


class MLP(LMBase):
    def __init__(self, tokenizer=None, nodes=16, layers=2, max_len=16):
        super().__init__(tokenizer=tokenizer, max_len=max_len)
        net = [nn.Embedding(tokenizer.vocab_size, nodes)]
        for _ in range(layers):
            net += [nn.Linear(nodes, nodes), nn.GELU()]
        self.net = nn.Sequential(*net, nn.Linear(nodes, tokenizer.vocab_size))

    def forward(self, x):
        return self.net(x)
"""
TEMPLATE_YAML = """
name: template
out: {out}
tokenizer: lmkit.text.tokenizer.Byte
model: model.MLP
stages:
  - name: train
    data: {{class: lmkit.data.sources.InMemory, prompts: [abab, baba, aabb, bbaa], holdout: 0}}
    steps: 3
"""


def test_a_template_names_its_model_by_a_bare_string(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.py").write_text(TEMPLATE_MODEL)
    (tmp_path / "run.yaml").write_text(TEMPLATE_YAML.format(out=tmp_path / "run"))
    experiment = load_experiment(tmp_path / "run.yaml")
    runner = build(experiment.runner, experiment=experiment)
    assert runner.fit() == 3
    model = load_model(tmp_path / "run")
    assert isinstance(model, LMBase)
    assert type(model).__module__ == "model"
    assert len(model.generate_prompts(["ab", "b"], max_new_tokens=5)) == 2
