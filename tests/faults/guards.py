"""A program for test_signals, test_numbers and test_memory: runs that are asked to stop, that meet
a NaN (see poisoned.py), or that run out of memory, in children.

`python guards.py FOLDER` reads lines such as `signals 10` and answers each with a JSON object.
"""

from __future__ import annotations

import json
import os
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
from poisoned import numbers, parts, rollback, stopping

from lmkit.checkpoints.contents import Snapshot
from lmkit.checkpoints.environment import describe_environment
from lmkit.data.store import StoreWriter
from lmkit.evals.bits_per_byte import bits_per_byte
from lmkit.lab.equal_runs import compare_runs
from lmkit.model import LMBase
from lmkit.rl.rollouts import Rollouts
from lmkit.text import Byte
from lmkit.train import evaluation
from lmkit.train.accumulate import LossModule
from lmkit.train.metrics import Metrics
from lmkit.train.metrics_file import read_metrics
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


TOO_LONG: tuple[tuple[Any, str, str], ...] = (
    (evaluation, "bits_per_byte", "the evaluation after step 2"),
    (Rollouts, "_answer", "step 6"),
)


def too_long(runs: Runs, trials: int) -> dict[str, Any]:
    """An evaluation or a rollout that no start has the time for: the run ends with an error, and
    not for ever with the next start's turn; with more time it goes on from there."""
    wrong: list[Any] = []
    for trial in range(trials):
        run = runs.folder / "too-long"
        place, name, what = TOO_LONG[trial % len(TOO_LONG)]
        work = getattr(place, name)

        def late(*arguments: Any) -> Any:
            ask(signal.SIGALRM)  # the clock's own
            return work(*arguments)  # noqa: B023

        def disturb() -> None:
            setattr(place, name, late)  # noqa: B023

        codes = [runs.trial(run, disturb, "runner.time_limit=1h") for _ in range(2)]
        said = runs.said.read_text()
        told = f"error: the time limit is too short for {what}: " in said
        found = [] if codes == [142, 2] and told else [codes, said]
        if found := found + runs.goes_on(run):
            wrong.append([trial, *found])
    return {"stopped": trials, "wrong": wrong}


def little_by_little(runs: Runs, trials: int) -> dict[str, Any]:
    """Starts that have the time for one step or one evaluation each come to the same end."""
    wrong: list[Any] = []
    codes: list[int] = []
    for _ in range(trials):
        run, write, codes = runs.folder / "little", Metrics.step, []

        def late(self: Metrics, *arguments: Any, **numbers: Any) -> None:
            ask(signal.SIGALRM)
            write(self, *arguments, **numbers)  # noqa: B023

        def disturb() -> None:
            Metrics.step = late  # type: ignore[method-assign]  # noqa: B023

        while not codes or codes[-1] == 142 and len(codes) < 20:
            codes.append(runs.trial(run, disturb, "runner.time_limit=1h"))
        found = [runs.said.read_text()] if codes[-1] else runs.differences(run)
        if found or len(codes) < 5:
            wrong.append([codes, *found])
        shutil.rmtree(run)
    return {"ended": trials, "codes": codes, "wrong": wrong}


def one_rank(runs: Runs, trials: int) -> dict[str, Any]:
    """SIGTERM to one of two ranks only, in the midst of an evaluation: both leave, and go on.

    Rank 1, which writes no samples, passes 11 times; the first trial is in an evaluation.
    """
    straight, wrong = runs.folder / "straight-2", []
    assert as_ranks(runs, straight, lambda rank: None) == [0, 0], said_by(runs)
    for trial in range(trials):
        run = runs.folder / "one-rank"

        def disturb(rank: int, trial: int = trial) -> None:
            if rank == trial % 2:
                Forwards(5 + (3 + trial // 2) % 7, ask).__enter__()

        codes = as_ranks(runs, run, disturb)
        said = said_by(runs)
        again = as_ranks(runs, run, lambda rank: None)
        found = [d for each in compare_runs(run, straight) for d in each.differences[:1]]
        if codes != [143, 143] or again != [0, 0] or found:
            wrong.append([codes, said, again, found])
        shutil.rmtree(run)
    return {"asked": trials, "wrong": wrong}


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


def one_rank_short(runs: Runs, trials: int) -> dict[str, Any]:
    """Memory runs out on one of two ranks in the midst of a step: both end, by its line, and the
    same command goes on with half of the rows, and with half of those, to the end of a run that had
    memory enough. Sums of a fixed order do not change with the memory there is."""
    words = ("model.dropout=0", "stages.pretrain.batch_size=8", "runner.max_batch_size=4")
    roomy, wrong = runs.folder / "roomy", []
    assert as_ranks(runs, roomy, lambda rank: None, *words) == [0, 0], said_by(runs)
    for trial in range(trials):
        run = runs.folder / "short"

        def disturb(rank: int) -> None:
            forward, left = LossModule.forward, [3 + trial % 2]  # noqa: B023

            def run_out(self: LossModule, batch: Any) -> torch.Tensor:
                left[0] -= 1
                if rank == 1 and left[0] < 0 and len(batch) > 1:  # noqa: B023
                    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
                return forward(self, batch)

            LossModule.forward = run_out  # type: ignore[method-assign]

        def starts(ends: list[int], *lines: str, more: tuple[str, ...] = ()) -> None:
            codes = as_ranks(runs, run, disturb, *words, *more)  # noqa: B023
            said = said_by(runs)
            if codes != ends or not all(said.count(line) == 1 for line in lines):
                wrong.append([codes, said])

        short = "error: rank 1 of 2: {} rows no longer fit into the memory of cpu; {}".format
        fixed = short(4, "go on with runner.max_batch_size=2")
        starts([5, 2], fixed, more=("runner.reduction=ordered",))
        shutil.rmtree(run)
        starts([5, 2], short(4, "the same command goes on with 2"))
        starts([5, 2], "rows at once: 2; with more", short(2, "the same command goes on with 1"))
        starts([0, 0], "rows at once: 1; with more the memory ran out\n")
        if not torch.allclose(losses(run), losses(roomy), rtol=1e-5):
            wrong.append([losses(run), losses(roomy)])
        shutil.rmtree(run)
    return {"short": trials, "wrong": wrong}


def losses(run: Path) -> torch.Tensor:
    """Of every step its loss and its gradient's norm."""
    lines = read_metrics(run / "metrics.jsonl")
    return torch.tensor([[line["loss"], line["grad_norm"]] for line in lines])


def narrow(runs: Runs, trials: int) -> dict[str, Any]:
    """Memory for one answer at a time: tasks are asked, rollouts made and samples written in parts,
    with the same answers."""
    wrong: list[Any] = []
    for _ in range(trials):
        run, generate = runs.folder / "narrow", LMBase.generate
        refused = {"a task": 0, "a rollout": 0, "samples": 0}

        def narrow_generate(self: LMBase, prompts: Any, *arguments: Any, **how: Any) -> Any:
            rows = len(prompts) * how.get("samples", 1)
            if min(rows, how.get("batch_size", rows)) > 1:
                asks = "samples" if "samples" not in how else "a task"
                refused["a rollout" if len(how) > 2 else asks] += 1  # noqa: B023
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
            return generate(self, prompts, *arguments, **how)  # noqa: B023

        def work() -> int:
            LMBase.generate = narrow_generate  # type: ignore[method-assign,assignment]  # noqa: B023
            return runs.train(run) or (0 if all(refused.values()) else 98)  # noqa: B023

        if code := in_child(work, 60, str(runs.said)):
            wrong.append([code, runs.said.read_text()])
        else:
            wrong += runs.differences(run)
        shutil.rmtree(run)
    return {"narrow": trials, "wrong": wrong}


PROGRAMS = (
    signals, saving, tokenising, time_limit, too_long, little_by_little, one_rank, numbers,
    stopping, rollback, parts, memory, narrow, one_rank_short,
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
