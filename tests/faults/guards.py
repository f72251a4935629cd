"""A program for test_signals, test_numbers and test_memory: runs that are asked to stop, that meet
a NaN, or that run out of memory, in children.

`python guards.py FOLDER` reads lines such as `signals 10` and answers each with a JSON object.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from forking import in_child
from guarded import Forwards, Runs, as_ranks, said_by

from lmkit.checkpoints.contents import Snapshot
from lmkit.checkpoints.environment import describe_environment
from lmkit.data.store import StoreWriter
from lmkit.evals.bits_per_byte import bits_per_byte
from lmkit.lab.equal_runs import compare_runs
from lmkit.text import Byte
from lmkit.train.accumulate import LossModule
from lmkit.train.metrics_file import read_metrics
from lmkit.train.runner_base import LMRunnerBase
from lmkit_models.gpt import GPT


def ask(number: int = signal.SIGTERM) -> None:
    """This process is asked to stop."""
    os.kill(os.getpid(), number)


def signals(runs: Runs, trials: int) -> dict[str, Any]:
    """SIGTERM at forward passes spread over the run: in steps, evaluations, samples, rollouts."""
    wrong: list[Any] = []
    owed = 0
    for trial in range(trials):
        at = 3 + trial * (runs.forwards - 4) // trials
        run = runs.folder / f"at-{at}"
        code = runs.trial(run, Forwards(at, ask).__enter__)
        newest = sorted((run / "checkpoints").glob("0*"))[-1:]
        state = json.loads((newest[0] / "state.json").read_text())["runner"] if newest else {}
        owed += state.get("owed") is not None
        said = runs.said.read_text()
        found = [] if code == 143 and "goes on from there" in said else [code, said]
        found += runs.goes_on(run)
        if found:
            wrong.append([at, *found])
    return {"asked": trials, "evaluations owed": owed, "wrong": wrong}


def saving(runs: Runs, trials: int) -> dict[str, Any]:
    """SIGTERM while a checkpoint is written."""
    wrong: list[Any] = []
    for trial in range(trials):
        put, seen = Snapshot.put, []

        def put_and_ask(self: Snapshot, location: Path, trial: int = trial) -> None:
            seen.append(location)  # noqa: B023
            if len(seen) == 1 + trial % 4:  # noqa: B023
                ask()
            put(self, location)  # noqa: B023

        run = runs.folder / "saving"
        code = runs.trial(run, lambda: setattr(Snapshot, "put", put_and_ask))  # noqa: B023
        if found := ([] if code == 143 else [code, runs.said.read_text()]) + runs.goes_on(run):
            wrong.append([trial, *found])
    return {"asked": trials, "wrong": wrong}


def tokenising(runs: Runs, trials: int) -> dict[str, Any]:
    """A signal while texts become tokens: nothing half made is left in the cache."""
    wrong: list[Any] = []
    for trial in range(trials):
        number = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)[trial % 3]
        cache, run, write = runs.folder / "cache", runs.folder / "tokenising", StoreWriter.write

        def write_and_ask(self: StoreWriter, *arguments: Any, number: int = number) -> None:
            ask(number)
            write(self, *arguments)  # noqa: B023

        def disturb() -> None:
            os.environ["LMKIT_CACHE"] = str(cache)  # noqa: B023
            StoreWriter.write = write_and_ask  # type: ignore[method-assign]  # noqa: B023

        code = runs.trial(run, disturb)
        said = runs.said.read_text()
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        left = [str(path) for path in cache.rglob("*.partial")]
        if code != (130 if number == signal.SIGINT else 143) or len(errors) != 1 or left:
            wrong.append([number, code, said, left])
        shutil.rmtree(cache)
    return {"asked": trials, "wrong": wrong}


def time_limit(runs: Runs, trials: int) -> dict[str, Any]:
    """A pass takes longer than all of the run may."""
    wrong: list[Any] = []
    for trial in range(trials):
        run, late = runs.folder / "timed", Forwards(12 + 9 * trial, lambda: time.sleep(3))
        code = runs.trial(run, late.__enter__, "runner.time_limit=3s")
        found = [] if code == 142 else [code, runs.said.read_text()]
        if found := found + runs.goes_on(run):
            wrong.append([trial, *found])
    return {"stopped": trials, "wrong": wrong}


def one_rank(runs: Runs, trials: int) -> dict[str, Any]:
    """SIGTERM to one of two ranks only, in the midst of an evaluation: both leave, and go on."""
    straight, wrong = runs.folder / "straight-2", []
    assert as_ranks(runs, straight, lambda rank: None) == [0, 0], said_by(runs)
    for trial in range(trials):
        run = runs.folder / "one-rank"

        def disturb(rank: int, trial: int = trial) -> None:
            if rank == trial % 2:
                Forwards(8 + 5 * trial, ask).__enter__()

        codes = as_ranks(runs, run, disturb)
        said = said_by(runs)
        again = as_ranks(runs, run, lambda rank: None)
        found = [d for each in compare_runs(run, straight) for d in each.differences[:1]]
        if codes != [143, 143] or again != [0, 0] or found:
            wrong.append([codes, said, again, found])
        shutil.rmtree(run)
    return {"asked": trials, "wrong": wrong}


def poison(step: int, value: float = float("nan")) -> None:
    """The loss of one step of the run is multiplied by `value` in this process."""
    forward, train_step = LossModule.forward, LMRunnerBase.train_step
    now = [0]

    def note(self: LMRunnerBase, *arguments: Any) -> Any:
        now[0] = self.progress.step + 1
        return train_step(self, *arguments)

    def poisoned(self: LossModule, batch: Any) -> torch.Tensor:
        return forward(self, batch) * (value if now[0] == step else 1.0)

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
                        ask(signal.SIGKILL if trial % 2 else signal.SIGTERM)  # noqa: B023
                    return step(self, *arguments)

                LMRunnerBase.train_step = stop  # type: ignore[method-assign]

            runs.trial(run, disturb, *words, file="short")
        code = runs.trial(run, lambda: poison(8, value=1000.0), *words, file="short")
        found = [d for each in compare_runs(run, straight) for d in each.differences[:1]]
        if code or found:
            wrong.append([trial, code, found, runs.said.read_text() if code else ""])
        shutil.rmtree(run)
    return {"rolled back": 1 + trials, "wrong": wrong}


def memory(runs: Runs, trials: int) -> dict[str, Any]:
    """A real limit on memory: an evaluation that does not fit is measured in parts."""
    model = GPT(tokenizer=Byte(), depth=1, width=64, head_dim=16, max_len=512)
    text = [{"text": "a" * 600} for _ in range(64)]
    batch = model.tokenize(text)
    roomy = bits_per_byte(model, [batch.rows(0, 2)]).bits_per_byte
    wrong: list[Any] = []
    for _ in range(trials):

        def work() -> int:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + 32 * 2**20,) * 2)
            try:
                model.loss(batch)
                return 98  # it was no limit
            except RuntimeError:
                pass
            found = bits_per_byte(model, [batch]).bits_per_byte
            return 0 if abs(found - roomy) < 1e-3 else 97

        if code := in_child(work, 60, str(runs.said)):
            wrong.append([code, runs.said.read_text()])
    return {"limited": trials, "wrong": wrong}


PROGRAMS = (
    signals, saving, tokenising, time_limit, one_rank, numbers, stopping, rollback, memory,
)  # fmt: skip


if __name__ == "__main__":
    signal.alarm(3000)
    describe_environment()  # asks git once, for all children
    programs = {each.__name__: each for each in PROGRAMS}
    answers, sys.stdout = sys.stdout, sys.stderr  # the straight run talks
    runs = Runs(Path(sys.argv[1]))
    for line in sys.stdin:
        what, number = line.split()
        started = sum(os.times()[:4])
        answer = programs[what](runs, int(number))
        seconds = round(sum(os.times()[:4]) - started, 1)
        print(json.dumps({**answer, "seconds of a core": seconds}), file=answers, flush=True)
