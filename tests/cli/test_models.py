"""`lmkit models`: the zoo and the installed plug-ins, with sizes."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from lmkit.config import resolve
from lmkit.text import Tiktoken

ZOO = ["gpt.GPT", "gpt2.GPT2", "mlp.MLP", "recurrent.GRULM"]


def test_the_zoo(lmkit: Callable[..., Any]) -> None:
    done = lmkit("models")
    assert (done.code, done.err) == (0, "")
    for name in ZOO:
        model = resolve(f"lmkit_models.{name}")
        about = model.__doc__.splitlines()[0]
        assert re.search(
            rf"^lmkit_models\.{name}  \(\w+\)\n    {re.escape(about)}$", done.out, re.M
        )
    size = resolve("lmkit_models.gpt.GPT")(
        depth=1, tokenizer=Tiktoken("python4k")
    ).parameter_count()
    assert f"    {size:,} parameters at depth=1\n" in done.out
    assert done.out.count(" parameters at its defaults\n") == 3


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
        "class Named(Tiny):\n    '''Needs a word.'''\n\n    def __init__(self, word: str): ...\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    values = {"tiny": "plug:Tiny", "named": "plug:Named", "bad": "broken:X", "adam": "torch:sum"}
    points = [EntryPoint(name, value, "lmkit.plugins") for name, value in values.items()]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    done = lmkit("models")
    assert done.code == 0
    assert "plug.Tiny  (tiny)\n    So small.\n    28 parameters at layers=1\n" in done.out
    assert "plug.Named  (named)\n    Needs a word.\n    cannot be made with" in done.out
    assert "bad: cannot be opened: module broken fails while importing: Zero" in done.out
    assert "adam" not in done.out
    assert "lmkit_models.gpt.GPT\n" in done.out, "the zoo has no short names then"
