"""A light start: what a command does not need until it works is not imported, nor looked through.

No clock is asked: a machine has slow days, and an import that came back has not.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from lmkit.cli.importing import importing

# torch._dynamo takes 1 s, whoever asks for it; torch.optim and torch's switch for deterministic
# algorithms do
SLOW = {"torch._dynamo", "torch._inductor", "sympy"}
YAML = """\
name: tiny
out: {out}
tokenizer: lmkit.text.tokenizer.Byte
model: {{class: lmkit_models.gpt.GPT, depth: 1, width: 16, head_dim: 8, max_len: 16}}
runner: {{device: cpu, precision: fp32}}
stages:
  - name: pretrain
    data: {{class: lmkit.data.sources.TextFiles, path: text.txt}}
    steps: 1
    batch_size: 2
"""
TOLD = """\
import gc, sys
from lmkit.cli import main

def looked_through(phase, about):
    if "lmkit.train.loading" not in sys.modules and about["generation"] == 2:
        print("a search for garbage", file=sys.stderr)

gc.callbacks.append(looked_through)
code = main(sys.argv[1:])
assert gc.isenabled() and gc.get_freeze_count() > 100_000
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


def loaded_by(folder: Path, *words: str) -> set[str]:
    command = [sys.executable, "-c", TOLD, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "a search for garbage" not in done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_training_and_generation_start_without_dynamo(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcd" * 300)
    (tmp_path / "tiny.yaml").write_text(YAML.format(out=tmp_path / "run"))
    trained = loaded_by(tmp_path, "train", "tiny.yaml")
    assert {"lmkit.optim.adamw", "lmkit.optim.muon"} <= trained  # they stepped
    assert not trained & SLOW
    wrote = loaded_by(tmp_path, "generate", "run", "-p", "ab", "-n", "2")
    assert "lmkit.model.generate" in wrote
    assert not wrote & SLOW


def test_the_collector_is_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr("gc.freeze", lambda: None)  # what pytest holds may go
    seen = []
    with pytest.raises(ZeroDivisionError), importing():
        seen.append(gc.isenabled() or 1 / 0)
    assert seen == []
    assert gc.isenabled()


def test_inside_another_program_garbage_is_its_own_affair() -> None:
    import torch  # noqa: F401

    with importing():
        assert gc.isenabled()
