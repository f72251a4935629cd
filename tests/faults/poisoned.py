"""Runs that meet a NaN or a spike, in children: trials that `guards.py` makes for test_numbers."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from guarded import Runs, as_ranks, said_by

from lmkit.lab.equal_runs import compare_runs
from lmkit.train.accumulate import LossModule
from lmkit.train.diagnosis import read_case
from lmkit.train.metrics_file import read_metrics
from lmkit.train.replaying import replay
from lmkit.train.runner_base import LMRunnerBase


def poison(*steps: int, value: float = float("nan")) -> None:
    """The loss of some steps of the run is multiplied by `value` in this process."""
    forward, train_step = LossModule.forward, LMRunnerBase.train_step
    now = [0]

    def note(self: LMRunnerBase, *arguments: Any) -> Any:
        now[0] = self.progress.step + 1
        return train_step(self, *arguments)

    def poisoned(self: LossModule, batch: Any) -> torch.Tensor:
        return forward(self, batch) * (value if now[0] in steps else 1.0)

    LMRunnerBase.train_step = note  # type: ignore[method-assign]
    LossModule.forward = poisoned  # type: ignore[method-assign]


def numbers(runs: Runs, trials: int) -> dict[str, Any]:
    """A NaN on each rank at a step of its own, so two a run: those two are skipped on all, and no
    other step is."""
    draw, wrong = random.Random(0), []
    for _ in range(trials // 2):
        steps = draw.sample(range(1, 6), 2)
        run = runs.folder / "numbers"
        words = ["runner.on_anomaly=skip", "stages.pretrain.evaluate={tokens: 48}"]
        codes = as_ranks(runs, run, lambda rank: poison(steps[rank]), *words)  # noqa: B023
        lines = {line["step"]: line for line in read_metrics(run / "metrics.jsonl")}
        skipped = [number for number, line in lines.items() if "anomaly" in line]
        reports = [run / f"not_finite_step_{step}" / "report.json" for step in steps]
        ranks = [json.loads(path.read_text())["rank"] for path in reports if path.exists()]
        after = [line["loss"] for number, line in lines.items() if number not in skipped]
        fine = codes == [0, 0] and skipped == sorted(steps) and ranks == [0, 1]
        if not fine or None in after or len(lines) != 5:
            wrong.append([steps, ranks, codes, skipped, said_by(runs)])
        shutil.rmtree(run)
    return {"poisoned": trials, "wrong": wrong}


def stopping(runs: Runs, trials: int) -> dict[str, Any]:
    """A NaN with the policy to stop: exit code 4, and what was saved goes on as if it never was."""
    wrong: list[Any] = []
    for trial in range(trials):
        run, step = runs.folder / "stopping", 1 + trial % 9
        code = runs.trial(run, lambda: poison(step))  # noqa: B023
        said = runs.said.read_text()
        found = [] if code == 4 and "not stepped" in said else [code, said]
        found += runs.goes_on(run)
        if found:
            wrong.append([step, *found])
    return {"poisoned": trials, "wrong": wrong}


def rollback(runs: Runs, trials: int) -> dict[str, Any]:
    """A spike sends the run back to its last checkpoint; killed and stopped on the way, it ends as
    one that was not."""
    words = [
        "runner.on_anomaly={policy: rollback, spikes: 50, window: 8}",
        "stages.pretrain.steps=9",
        "stages.pretrain.checkpoint.every=4",
        "stages.pretrain.evaluate={every: 3, tokens: 48}",
    ]
    wrong: list[Any] = []
    straight = runs.folder / "rolled"
    code = runs.trial(straight, lambda: poison(8, value=1000.0), *words, file="short")
    lines = {line["step"]: line for line in read_metrics(straight / "metrics.jsonl")}
    told = lines[8].get("anomaly"), lines[8].get("anomaly_policy")
    if code or told != ("spike", "rollback"):
        wrong.append([code, told, runs.said.read_text()])
    for trial in range(trials):
        run = runs.folder / "again"
        for at in (5, 6, 7, 8, 9):  # stops between the checkpoint of step 4 and the spike

            def disturb(at: int = at) -> None:
                poison(8, value=1000.0)
                step = LMRunnerBase.train_step

                def stop(self: LMRunnerBase, *arguments: Any) -> Any:
                    if self.progress.step == at - 1:
                        number = signal.SIGKILL if trial % 2 else signal.SIGTERM  # noqa: B023
                        os.kill(os.getpid(), number)
                    return step(self, *arguments)

                LMRunnerBase.train_step = stop  # type: ignore[method-assign]

            runs.trial(run, disturb, *words, file="short")
        code = runs.trial(run, lambda: poison(8, value=1000.0), *words, file="short")
        found = [d for each in compare_runs(run, straight) for d in each.differences[:1]]
        if code or found:
            wrong.append([trial, code, found, runs.said.read_text() if code else ""])
        shutil.rmtree(run)
    return {"rolled back": 1 + trials, "wrong": wrong}


def in_parts(runs: Runs, policy: str, bad: int, *steps: int) -> Path:
    """A run on two ranks with weights in parts (fsdp), of which one meets a NaN."""
    run = runs.folder / policy
    codes = as_ranks(
        runs,
        run,
        lambda rank: poison(*steps if rank == bad else ()),
        "runner.strategy=fsdp",
        f"runner.on_anomaly={policy}",
        "stages.pretrain.evaluate={tokens: 48}",
        "stages.pretrain.checkpoint={every: 2, keep: 9}",
    )
    assert codes == [0, 0], said_by(runs)
    return run


def files(checkpoint: Path) -> dict[str, bytes]:
    """Weights and optimizers' state of a checkpoint, or of a case."""
    return {path.name: path.read_bytes() for path in checkpoint.glob("*.safetensors")}


def parts(runs: Runs, trials: int) -> dict[str, Any]:
    """With weights in parts, what is kept of a step has all of them, and runs again alone; and to
    go back to a checkpoint leaves the bits that there are where the steps since then were skipped.
    """
    import_module("torch.distributed.fsdp")  # all children have it then
    wrong: list[Any] = []
    for trial in range(trials):
        bad = trial % 2
        skipped, rolled = in_parts(runs, "skip", bad, 3, 4), in_parts(runs, "rollback", bad, 4)
        case = read_case(skipped / "not_finite_step_3")
        again = replay(case, torch.device("cpu"))
        told = case.report["rank"], case.report["origin"], again.weights, again.origin
        fine = told == (bad, "the gradient at the output of norm", case.folder, "")
        before = files(skipped / "checkpoints" / "00000002-pretrain")
        whole = files(case.folder)["model.safetensors"] == before["model.safetensors"]
        ends = [files(max((run / "checkpoints").iterdir())) for run in (skipped, rolled)]
        if not (fine and math.isfinite(again.loss) and whole and ends[0] == ends[1]):
            wrong.append([str(told), again.loss, whole, ends[0] == ends[1]])
        shutil.rmtree(skipped)
        shutil.rmtree(rolled)
    return {"poisoned": trials, "wrong": wrong}
