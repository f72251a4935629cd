"""Asked to stop, wherever it is, a run saves, leaves, and ends later on as if nothing had been."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmkit.train.metrics_file import read_metrics
from tests.faults.conftest import count

Guards = Callable[[str, int], dict[str, Any]]


def test_anywhere_in_steps_evaluations_samples_and_rollouts(guards: Guards) -> None:
    found = guards("signals", count(10, 100))
    assert found["wrong"] == []
    assert found["evaluations owed"] > 0


@pytest.mark.parametrize(
    ("where", "trials"),
    [
        ("saving", (2, 20)),
        ("tokenising", (3, 30)),
        ("time_limit", (1, 8)),
        ("too_long", (2, 4)),
        ("little_by_little", (1, 2)),
    ],
)
def test_while(where: str, trials: tuple[int, int], guards: Guards) -> None:
    assert guards(where, count(*trials))["wrong"] == []


def test_one_rank_of_two_in_an_evaluation(guards: Guards) -> None:
    assert guards("one_rank", count(1, 20))["wrong"] == []


# the second shard never comes
ENDLESS = """
import time
from lmkit.data import InMemory, Source

class Never(InMemory):
    def documents(self, split):
        time.sleep(600)

class Endless(Source):
    def documents(self, split):
        return iter(())
    def fingerprint(self):
        return "endless"
    def shards(self, split):
        if split == "train":
            return [InMemory(["one text " * 9], holdout=0), Never(["another"], holdout=0)]
"""
YAML = """
name: endless
tokenizer: lmkit.text.tokenizer.Byte
model: {class: lmkit_models.gpt2.GPT2, embedding_dim: 16, layers: 1, heads: 2, max_len: 16}
runner: {precision: fp32}
stages:
  - {name: pretrain, data: {class: endless.Endless}, steps: 99, batch_size: 1, evaluate: {every: 0}}
"""


def test_while_a_shard_is_waited_for(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    (tmp_path / "endless.yaml").write_text(YAML)
    command = [sys.executable, "-m", "lmkit", "train", "endless.yaml", "out=run"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while len(list(read_metrics(tmp_path / "run" / "metrics.jsonl"))) < 5:  # of six steps
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 143, said
    assert "stopped at step 6, saved in run; the same command goes on from there" in said
    assert (tmp_path / "run" / "checkpoints" / "00000006-pretrain").is_dir()


# becomes `lmkit train` with the terminal as its own, so that its end reaches it
OF_A_TERMINAL = """
import fcntl, os, struct, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
os.execv(sys.executable, [sys.executable, "-m", "lmkit", *sys.argv[1:]])
"""


def test_a_terminal_that_is_closed_costs_no_step(
    experiment_file: Path, environment: dict[str, str]
) -> None:
    screen, inner = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", OF_A_TERMINAL, "train", str(experiment_file)],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env={**environment, "SLOW": "0.1"},
        start_new_session=True,
    ) as process:
        try:
            os.close(inner)
            shown = b""
            while b"pretrain 1/8" not in shown:
                shown += os.read(screen, 4096)
            os.close(screen)
            process.wait(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 129
    run = experiment_file.parent / "run"
    assert f"{run}: ".encode() in shown
    saved = sorted((run / "checkpoints").glob("0*-pretrain"))[-1]
    assert int(saved.name.split("-")[0]) == len(list(read_metrics(run / "metrics.jsonl"))) > 0
