"""`lmkit list`: what there is to name, of lmkit and of installed plug-ins."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from lmkit.config import resolve
from lmkit.lab.catalogue import KINDS, find
from lmkit.text import Tiktoken

EXPECTED = {
    "models": ["lmkit_models.gpt.GPT", "lmkit_models.gpt2.GPT2", "lmkit_models.recurrent.GRULM"],
    "templates": ["nanochat", "plain"],
    "tokenizers": ["lmkit.text.tokenizer.Byte", "lmkit.data.vocabulary.train_tokenizer"],
    "sources": ["lmkit.data.sources.TextFiles", "lmkit.data.mixture.Mixture"],
    "datasets": ["fineweb_edu", "gsm8k"],
    "tasks": ["lmkit.tasks.arithmetic.Arithmetic", "lmkit.tasks.gsm8k.GSM8K"],
    "objectives": ["lmkit.rl.grpo.GRPO", "lmkit.rl.dpo.DPO"],
    "rewards": ["lmkit.rl.rewards.Ended", "lmkit.rl.rewards.Format"],
    "runners": ["lmkit.train.runner.BasicModelRunner"],
    "optimizers": ["lmkit.optim.muon.Muon", "torch.optim.AdamW", "torch.optim.SGD"],
    "schedules": ["lmkit.optim.schedule.WarmupStableDecay", "lmkit.optim.schedule.Constant"],
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_kind(kind: str) -> None:
    entries, failures = find(kind)
    paths = [entry.path for entry in entries]
    assert failures == []
    assert len(paths) == len(set(paths))
    assert set(EXPECTED[kind]) <= set(paths)
    for entry in entries if kind not in ("datasets", "templates") else ():
        assert resolve(entry.path) is entry.target, "the path is one that a YAML can have"


def test_no_kind_has_what_is_of_another_or_cannot_be_used() -> None:
    paths = {kind: {entry.path for entry in find(kind)[0]} for kind in KINDS}
    assert not paths["sources"] & paths["tasks"], "a task is a source, and more"
    assert "torch.optim.LBFGS" not in paths["optimizers"], "it needs a closure"
    assert "lmkit.rl.rewards.Rewards" not in paths["rewards"], "it sums several"
    assert not any(path.endswith((".Source", ".Task", ".Objective")) for path in paths["sources"])
    (spelling,) = (e for e in find("tasks")[0] if e.path.endswith("Spelling"))
    assert spelling.names == ("spelling",)


def test_all_of_it_and_one_kind(lmkit: Callable[..., Any]) -> None:
    done = lmkit("list")
    assert (done.code, done.err) == (0, "")
    for kind, paths in EXPECTED.items():
        assert re.search(rf"^{kind}, for `", done.out, re.M)
        assert all(re.search(rf"^{re.escape(path)}\b", done.out, re.M) for path in paths)
    assert max(map(len, done.out.splitlines())) <= 100
    assert "parameters at" not in done.out
    assert "chatml\n    ChatML, as many open models have it.\n" in done.out
    one = lmkit("list", "objectives").out
    assert one.startswith("objectives, for `objective:` of a stage\n\n")
    assert "lmkit_models" not in one
    wrong = lmkit("list", "model")
    assert wrong.code == 2
    assert "there is no kind 'model'; did you mean 'models'?" in wrong.error


def test_the_sizes_of_models(lmkit: Callable[..., Any]) -> None:
    out = lmkit("list", "models").out
    for name in ("gpt.GPT", "gpt2.GPT2", "mlp.MLP", "recurrent.GRULM"):
        about = resolve(f"lmkit_models.{name}").__doc__.splitlines()[0][:60]
        assert re.search(rf"^lmkit_models\.{name}  \(\w+\)\n    {re.escape(about)}", out, re.M)
    gpt = resolve("lmkit_models.gpt.GPT")(depth=1, tokenizer=Tiktoken("python4k"))
    assert f"    {gpt.parameter_count():,} parameters at depth=1, with the 4,096 tokens" in out
    assert out.count(" parameters at its defaults") == 3


def test_plugins(
    lmkit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that works, one whose size nobody can guess, one that is broken, one that is no model."""
    (tmp_path / "plug.py").write_text(
        "from torch import nn\nfrom lmkit import LMBase\n\n\n"
        "class Tiny(LMBase):\n    '''So small.'''\n\n"
        "    def __init__(self, tokenizer, layers: int):\n"
        "        super().__init__(tokenizer=tokenizer)\n        self.a = nn.Linear(3, 7)\n\n"
        "    def forward(self, tokens): ...\n\n\n"
        "class Named(Tiny):\n    def __init__(self, word: str): ...\n\n\n"
        "def fall(progress):\n    return 1 - progress\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    values = {"tiny": "plug:Tiny", "named": "plug:Named", "bad": "broken:X", "fall": "plug:fall"}
    points = [EntryPoint(name, value, "lmkit.plugins") for name, value in values.items()]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    done = lmkit("list", "models")
    assert done.code == 0
    assert "plug.Tiny  (tiny)\n    So small.\n    28 parameters at layers=1, with" in done.out
    assert "plug.Named  (named)\n    cannot be made with" in done.out, "no word of its base's"
    assert "bad: cannot be opened: module broken fails while importing: Zero" in done.out
    assert "plug.fall" not in done.out
    assert "lmkit_models.gpt.GPT\n" in done.out, "the zoo has no short names then"
    assert "plug.fall  (fall)\n" in lmkit("list", "schedules").out
