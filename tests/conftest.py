"""What holds for every test: one thread, no deadlines on a busy machine, a cache of its own.
And a small experiment on real files, and the command line in a real process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Tiny models in one process or several: a second thread would mostly wait for a core. Set before
# torch is imported, and inherited by every child.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("lmkit", deadline=None, max_examples=50)
settings.load_profile("lmkit")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenised text goes to a temporary folder, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


YAML = """\
name: tiny
seed: 7
out: {out}
tokenizer: lmkit.text.tokenizer.Byte
model:
  class: slow.Slow
  embedding_dim: 16
  layers: 1
  heads: 2
  max_len: 16
  dropout: 0.1
runner: {{class: lmkit.train.runner.BasicModelRunner, max_batch_size: 2, precision: fp32}}
stages:
  - name: pretrain
    data: {{class: lmkit.data.sources.TextFiles, path: text, holdout: 0.25}}
    steps: 8
    batch_size: 5
    clip: 1.0
    evaluate: {{every: 3, tokens: 128, samples: ["one"], max_new_tokens: 4}}
    checkpoint: {{every: 2}}
  - name: sft
    data: {{class: lmkit.data.sources.JsonLines, path: sums.jsonl, holdout: 0.2}}
    epochs: 1.5
    batch_size: 3
    include_prompts: false
    optimizers:
      - {{class: torch.optim.AdamW, params: [matrices], lr: 3e-3}}
      - {{class: torch.optim.SGD, lr: 1e-2, momentum: 0.9}}
    schedule: {{class: lmkit.optim.schedule.WarmupStableDecay, warmup: 2, decay: 0.5}}
    checkpoint: {{every: 2}}
"""


# where a signal has to hit a run between two given steps, SLOW gives it the time
SLOW = """\
import os
import time

from lmkit_models.gpt2 import GPT2


class Slow(GPT2):
    def loss(self, batch):
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().loss(batch)
"""


def write_experiment(folder: Path) -> Path:
    """The YAML with its data (eight text files and thirty sums) and its model."""
    texts = folder / "text"
    texts.mkdir(parents=True)
    for number in range(8):
        words = " ".join(f"{number} and {i} is {number + i}." for i in range(20))
        (texts / f"{number}.txt").write_text(words, encoding="utf-8")
    sums = [{"prompt": f"{i}+{i}=", "truth": str(2 * i)} for i in range(30)]
    lines = "\n".join(json.dumps(line) for line in sums)
    (folder / "sums.jsonl").write_text(lines + "\n", encoding="utf-8")
    (folder / "slow.py").write_text(SLOW, encoding="utf-8")
    path = folder / "tiny.yaml"
    path.write_text(YAML.format(out=folder / "run"), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def make_experiment() -> Callable[[Path], Path]:
    """Writes the YAML and its data into a folder."""
    return write_experiment


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    """`tiny.yaml`; its run's folder is `run` beside it."""
    return write_experiment(tmp_path)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """What a child process runs with: one thread, so that several run side by side."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def lmkit(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m lmkit ...` to its end."""

    def run(*words: Any, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lmkit", *map(str, words)]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
        )

    return run
