"""Reinforcement learning as a stage of a run: what it asks for, kills, ranks, preferences."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lmkit.config import Experiment, Spec, Stage
from lmkit.errors import ConfigError, LMKitError
from lmkit.model import LMBase
from lmkit.rl.grpo import GRPO
from lmkit.train.loading import load_model

YAML = """\
name: tiny
seed: 7
out: {out}
tokenizer: lmkit.text.tokenizer.Byte
model: {{class: lmkit_models.gpt.GPT, depth: 1, width: 32, head_dim: 16, max_len: 64}}
runner: {{class: lmkit.train.runner.BasicModelRunner, max_batch_size: 2, precision: fp32}}
stages:
  - name: sft
    data: &task
      {{class: lmkit.tasks.arithmetic.Arithmetic, digits: 1, tools: false, operations: "+"}}
    include_prompts: false
    steps: 4
    batch_size: 4
    # in float32: to bf16 the last bits, which differ on two ranks, are another direction
    optimizers: &exact
      - {{class: lmkit.optim.muon.Muon, params: [matrices], lr: 0.01, dtype: float32}}
      - {{class: lmkit.optim.AdamW, lr: 1e-3}}
    evaluate: &evaluate {{tasks: [*task], problems: 6}}
  - name: rl
    data: *task
    objective:
      class: lmkit.rl.grpo.GRPO
      group_size: 4
      max_new_tokens: 8
      steps_per_rollout: 2
      kl: 0.1
      rewards: [{{reward: plain_answer.plain}}]
    steps: 6
    batch_size: 3
    optimizers: *exact
    optimizer_state: {state}
    lr_scale: 0.1
    evaluate: *evaluate
    checkpoint: {{every: 2}}
  - name: dpo
    data:
      class: lmkit.data.sources.InMemory
      prompts:
        - {{prompt: "a", chosen: "b", rejected: "c"}}
        - {{prompt: "d", chosen: "e", rejected: "f"}}
      holdout: 0.0
    objective: lmkit.rl.dpo.DPO
    steps: 3
    batch_size: 1
    optimizers: *exact
    lr_scale: 0.1
"""
REWARD = """\
import os
import time


def plain(problem, completion):
    time.sleep(float(os.environ.get("SLOW", "0")))
    return sum(token < 128 for token in completion.ids) / 8
"""


def write(folder: Path, state: str = "fresh") -> Path:
    path = folder / "tiny.yaml"
    path.write_text(YAML.format(out=folder / "run", state=state))
    (folder / "plain_answer.py").write_text(REWARD)
    return path


def command(path: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "lmkit", "train", str(path), *more]


def train(path: Path, *more: str) -> None:
    done = subprocess.run(command(path, *more), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def lines(run: Path) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "evaluation_seconds", "waited", "mfu")
    return [{k: v for k, v in line.items() if k not in clock} for line in told]


def last_tensors(run: Path) -> dict[str, bytes]:
    last = max((run / "checkpoints").iterdir())
    return {file.name: file.read_bytes() for file in last.glob("*.safetensors")}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    path = write(tmp_path_factory.mktemp("straight"))
    train(path)
    return path.parent / "run"


def test_a_run_logs_what_its_answers_were_like(straight: Path) -> None:
    told = lines(straight)
    steps = [line for line in told if line["stage"] == "rl" and "reward" in line]
    assert len(steps) == 6
    assert {"reward", "answers_ended", "answer_tokens", "equal_groups", "kl", "clipped"} <= set(
        steps[0]
    )
    assert "reward_plain" not in steps[0]  # one reward is the reward
    measured = [line for line in told if "validation_arithmetic" in line]
    assert [line["stage"] for line in measured] == ["sft", "rl"]
    assert "validation_arithmetic_stderr" in measured[0]
    preferences = [line for line in told if "preference_accuracy" in line]
    assert preferences[0]["preference_loss"] == pytest.approx(0.6931, abs=1e-3)


def test_killed_in_the_midst_of_rollouts_it_ends_bit_equal(tmp_path: Path, straight: Path) -> None:
    path = write(tmp_path)
    run = tmp_path / "run"
    for step in (5, 7, 9, 11):
        process = subprocess.Popen(
            command(path),
            env={**os.environ, "SLOW": "0.01"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            file = run / "metrics.jsonl"
            if file.exists() and f'"step": {step},' in file.read_text():
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    train(path)
    assert last_tensors(run) == last_tensors(straight)
    assert lines(run) == lines(straight)


def test_two_ranks_answer_and_learn_alike(tmp_path: Path, straight: Path) -> None:
    path = write(tmp_path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    words = ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    done = subprocess.run(
        [*launcher, *words, "-m", "lmkit", "train", str(path)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    for one, two in zip(lines(straight), lines(tmp_path / "run"), strict=True):
        for key in ("reward", "kl", "preference_loss", "grad_norm", "validation_arithmetic"):
            if key in one:
                assert two[key] == pytest.approx(one[key], rel=1e-3, abs=1e-5), (one["step"], key)


def test_momenta_are_inherited_where_that_is_wished(tmp_path: Path, straight: Path) -> None:
    path = write(tmp_path, state="inherit")
    train(path)
    fresh = [line["kl"] for line in lines(straight) if "kl" in line]
    inherited = [line["kl"] for line in lines(tmp_path / "run") if "kl" in line]
    assert inherited[0] == fresh[0] == 0  # before the first step there is no difference yet
    assert inherited[1] != fresh[1]


def test_the_last_checkpoint_answers(straight: Path) -> None:
    model = load_model(straight)
    (answer,) = model.generate([{"messages": [{"role": "user", "content": "What is 1 + 1?"}]}])
    assert answer.ids


ARITHMETIC = Spec("lmkit.tasks.arithmetic.Arithmetic")


def refused(model: LMBase, spec: Spec = ARITHMETIC, **keys: Any) -> str:
    objective = GRPO(**keys.pop("objective", {}))
    stage = Stage(**{"name": "rl", "data": spec, "steps": 3, **keys})
    asked = Experiment(name="x", tokenizer=Spec("x.Y"), model=Spec("x.Y"), stages=(stage,))
    with pytest.raises(LMKitError) as error:
        objective.prepare(asked, stage, model)
    return str(error.value)


def test_a_stage_that_does_not_suit_is_refused(model: LMBase) -> None:
    texts = Spec("lmkit.data.sources.InMemory", {"prompts": ["a"]})
    assert "needs a task that scores" in refused(model, texts)
    assert "needs a task that scores" in refused(model, Spec("lmkit.tasks.mmlu.MMLU"))
    assert "give batch_size" in refused(model, batch_tokens=64)
    assert "give batch_size" in refused(model, steps=None, tokens=64)
    checkpoint = Stage(name="a", data=texts, steps=1).checkpoint
    every = type(checkpoint)(every=3)
    assert "nearest: 4" in refused(model, checkpoint=every, objective={"steps_per_rollout": 2})
    assert "validation means nothing" in refused(model, validation=texts)
    assert "isolate_documents means nothing" in refused(model, isolate_documents=True)
    none = Spec("lmkit.tasks.arithmetic.Arithmetic", {"train": 0})
    assert "there are no problems" in refused(model, none)


def test_problems_that_never_fit_are_refused_at_once(model: LMBase) -> None:
    model.max_len = 8
    assert "no problem leaves room for an answer in the context of 8" in refused(model)


def test_a_copy_of_the_beginning_is_the_same_one_whatever_happened_since(
    tmp_path: Path, straight: Path
) -> None:
    """The other run went on: the stage still compares with what it began with, or says why not."""
    base = tmp_path / "base"
    base.mkdir()
    train(write(base), "stages.rl.steps=2", "stages.dpo.steps=1")
    path = write(tmp_path)
    start = [f"stages.rl.init_from={base / 'run'}", "stages.dpo.steps=1"]
    train(path, *start, "stages.rl.steps=2")
    before = [line["kl"] for line in lines(tmp_path / "run") if "kl" in line]
    train(write(base), "stages.rl.steps=2", "stages.dpo.steps=6")
    done = subprocess.run(
        command(path, *start, "stages.rl.steps=2", "stages.dpo.steps=2"),
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line["kl"] for line in lines(tmp_path / "run") if "kl" in line] == before


def test_a_comparison_with_new_weights_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    text = path.read_text()
    head, _, rest = text.partition("  - name: sft\n")
    task = "{class: lmkit.tasks.arithmetic.Arithmetic, digits: 1, tools: false}"
    rest = rest[rest.index("  - name: rl\n") :].replace("*task", task)
    rest = rest.replace("*evaluate", "{}").replace("*exact", "auto")
    path.write_text(head + rest)
    done = subprocess.run(command(path), capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "compares with the weights it begins with" in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists() or not any(
        (tmp_path / "run" / "checkpoints").iterdir()
    )


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ConfigError, match="group_size must be at least 2"):
        GRPO(group_size=1)


def test_a_signal_waits_for_the_end_of_a_rollout(tmp_path: Path, straight: Path) -> None:
    path = write(tmp_path)
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(path),
        env={**os.environ, "SLOW": "0.05"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    file = run / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if file.exists() and '"step": 5,' in file.read_text():  # the first step of a rollout of two
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 143
    saved = max((run / "checkpoints").iterdir()).name
    assert int(saved.partition("-")[0]) % 2 == 0, saved
    train(path)
    assert last_tensors(run) == last_tensors(straight)
