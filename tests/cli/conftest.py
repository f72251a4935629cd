"""A project as a user has it (a YAML, a model, a text), and the command line in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lmkit.cli import main

TEXT = "".join(f"{i} and {i} is {2 * i}.\n" for i in range(60))
MODEL = '''\
from torch import nn

from lmkit import LMBase


class Table(LMBase):
    """Logits that hang on the last token only."""

    def __init__(self, tokenizer, vocab_size: int = 257):
        super().__init__(tokenizer=tokenizer, max_len=16)
        self.embedding = nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens):
        return self.embedding(tokens)
'''
YAML = """\
name: tiny
out: {out}
tokenizer: lmkit.text.tokenizer.Byte
model: {{class: my_model.Table}}
runner: {{device: cpu, precision: fp32, max_batch_size: 2}}
stages:
  - name: pretrain
    data: {{class: lmkit.data.sources.TextFiles, path: text.txt, holdout: 0.25}}
    steps: 4
    batch_size: 2
    evaluate: {{tokens: 64}}
    checkpoint: {{every: 2}}
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one error line; no traceback stands above it."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err, self.err
        return lines[0]


@dataclass(frozen=True)
class Project:
    """`tiny.yaml`, `my_model.py` and `text.txt` in a folder that is not the current one."""

    folder: Path
    lmkit: Callable[..., Outcome]

    @property
    def yaml(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def rewrite(self, old: str, new: str, file: str = "tiny.yaml") -> None:
        """Change a file; the old text must be there."""
        text = (self.folder / file).read_text()
        assert old in text
        (self.folder / file).write_text(text.replace(old, new))

    def line(self, text: str) -> int:
        """The number of the first line of the YAML that holds the text."""
        lines = self.yaml.read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if text in line)

    def train(self, *overrides: str) -> Outcome:
        return self.lmkit("train", self.yaml, *overrides)


def write_project(folder: Path) -> None:
    """The files of a Project."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(TEXT)
    (folder / "my_model.py").write_text(MODEL)
    (folder / "tiny.yaml").write_text(YAML.format(out=folder / "run"))


def command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Outcome]:
    """Runs a command in this process, from an empty folder; a process of its own costs seconds."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*words: Any) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def lmkit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Outcome]:
    """The command line, as a function."""
    return command_line(capsys, monkeypatch, tmp_path)


@pytest.fixture
def project(tmp_path: Path, lmkit: Callable[..., Outcome]) -> Project:
    """A project that trains; tests break it."""
    write_project(tmp_path / "project")
    return Project(tmp_path / "project", lmkit)


@pytest.fixture(scope="session")
def process() -> Callable[..., Outcome]:
    """Run `python -m lmkit ...` in a process of its own."""

    def run(*words: Any, cwd: Path, **options: Any) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "lmkit", *map(str, words)],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
            **options,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run
