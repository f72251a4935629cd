"""A run that was killed or stopped ends as if nothing had happened: weights, optimizers, losses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
TIMES = ("seconds", "evaluation_seconds", "waited", "mfu")


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def tensors(run: Path) -> dict[str, bytes]:
    """The bytes of every tensor file of the last checkpoint."""
    last = sorted((run / "checkpoints").iterdir())[-1]
    return {path.name: path.read_bytes() for path in sorted(last.glob("*.safetensors"))}


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, make_experiment: Callable[[Path], Path], lmkit: Run
) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    done = lmkit("train", make_experiment(folder))
    assert done.returncode == 0, done.stderr
    return folder / "run"


def assert_same_end(run: Path, straight: Path) -> None:
    assert tensors(run).keys() == {"model.safetensors", "optimizer.safetensors"}
    assert tensors(run) == tensors(straight)
    assert metrics(run) == metrics(straight)


def start(path: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lmkit", "train", str(path)]
    return subprocess.Popen(
        command,
        env={**environment, "SLOW": "0.05"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Until the run has logged `step`; it may have ended by then."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        file = run / "metrics.jsonl"
        if file.exists() and f'"step": {step},' in file.read_text():
            return
        time.sleep(0.002)


def test_killed_again_and_again_ends_bit_equal(
    experiment_file: Path, straight: Path, environment: dict[str, str], lmkit: Run
) -> None:
    run = experiment_file.parent / "run"
    for step in (1, 5, 7, 9, 14):  # before the first checkpoint, within both stages, at the border
        process = start(experiment_file, environment)
        wait_for_step(process, run, step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = lmkit("train", experiment_file)
    assert done.returncode == 0, done.stderr
    assert_same_end(run, straight)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_goes_on(
    number: signal.Signals,
    code: int,
    experiment_file: Path,
    straight: Path,
    environment: dict[str, str],
    lmkit: Run,
) -> None:
    run = experiment_file.parent / "run"
    process = start(experiment_file, environment)
    wait_for_step(process, run, 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "the same command goes on from there" in output
    assert lmkit("train", experiment_file).returncode == 0
    assert_same_end(run, straight)


def test_a_finished_run_says_so_and_a_longer_horizon_goes_on(
    experiment_file: Path, lmkit: Run
) -> None:
    assert lmkit("train", experiment_file).returncode == 0
    again = lmkit("train", experiment_file)
    assert again.returncode == 0
    assert "is finished: 16 steps" in again.stdout
    longer = lmkit("train", experiment_file, "stages.sft.epochs=2")
    assert longer.returncode == 0, longer.stderr
    assert metrics(experiment_file.parent / "run")[-1]["step"] > 16


def test_a_changed_experiment_is_refused_unless_allowed(experiment_file: Path, lmkit: Run) -> None:
    assert lmkit("train", experiment_file, "stages.pretrain.steps=2").returncode == 0
    refused = lmkit("train", experiment_file, "stages.pretrain.steps=2", "stages.sft.clip=0.5")
    assert refused.returncode == 3
    assert refused.stderr.startswith("error: ")
    assert "stages.sft.clip" in refused.stderr
    shorter = lmkit("train", experiment_file, "stages.pretrain.steps=1")
    assert shorter.returncode == 3
    assert "stages.pretrain.steps" in shorter.stderr
    allowed = lmkit(
        "train", experiment_file, "stages.pretrain.steps=2", "seed=8", "--allow-change", "seed"
    )
    assert allowed.returncode == 0, allowed.stderr


def test_a_damaged_checkpoint_falls_back_and_ends_bit_equal(
    experiment_file: Path, straight: Path, lmkit: Run
) -> None:
    run = experiment_file.parent / "run"
    assert lmkit("train", experiment_file).returncode == 0
    newest = sorted((run / "checkpoints").iterdir())[-1]
    model = newest / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    done = lmkit("train", experiment_file)
    assert done.returncode == 0
    assert "model.safetensors" in done.stderr
    assert "going back to" in done.stderr
    assert_same_end(run, straight)
