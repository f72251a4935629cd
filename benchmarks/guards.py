"""guards: what it costs a run never to be lost: its saves, and all that watches over a step.

    python -m benchmarks guards

The model, batch and checkpoints of experiments/quickstart.yaml (4 layers x 256, 4,096 tokens a
step, saved every 100 steps), in whole runs from the first step until the last checkpoint is on the
disk, with a time limit, the watchdog, and NaN and spikes looked for. The same runs without saves
take part by turns. What is timed from inside is exact where two runs differ by the machine's noise:
in the training loop by the clock, in the thread that writes by what it takes of the processor. On a
GPU, what `anomalies` takes is mostly the wait for the step.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.contest import Contestant, Measure, Result, compete
from benchmarks.shapes import SHAPES, Shape, experiment, gpt
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Report

STEPS, EVERY = 200, 100  # of a run, and between checkpoints, as quickstart has them
SMOKE = {"shape": "tiny", "steps": 4, "every": 2, "rounds": 1}
SAVING, NO_SAVES = "with checkpoints", "without"
RUN, NORM = "the run", "gradient's norm"  # what is no guard
LOOP = ("stall", "end")  # the loop stands still: at a save, and for the last to be on the disk
THREAD = ("write", "hash")
GUARDS = (
    "signals and time limit",
    "watchdog",
    "anomalies",
    "the rows' checksum",
    "errors of a save",
)


class Run:
    """An Entry: whole runs, one a round; `amount` is steps. `more`: the seconds of each part.

    Args:
        table: the experiment.
        saves: False: it writes no checkpoint.
    """

    def __init__(self, table: Mapping[str, Any], saves: bool) -> None:
        self._table, self._saves = table, saves
        self._steps = int(table["stages"][0]["steps"])

    def round(self, seconds: float) -> Measure:
        """A run from its first step to its end, whatever `seconds` are."""
        from lmkit.config import load_experiment
        from lmkit.train.runner import build_runner
        from lmkit.train.runner_base import LMRunnerBase

        loop, thread = Stopwatch(), Stopwatch(time.thread_time)
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lmkit-benchmark-"))
            file = Path(folder, "experiment.yaml")
            file.write_text(json.dumps(self._table))  # JSON is YAML
            runner = build_runner(load_experiment(file, [f"out={folder}/run"]))
            stack.enter_context(loop.watching(_of_loop()))
            stack.enter_context(thread.watching(_of_thread()))
            if not self._saves:
                skip = patch.object(LMRunnerBase, "save_checkpoint", lambda runner, run: None)
                stack.enter_context(skip)
            runner.fit()
        parts = {part: loop.seconds[part] for part in (*LOOP, *GUARDS, NORM)}
        parts |= {part: thread.seconds[part] for part in THREAD}
        return Measure(self._steps, sum(loop.seconds.values()), parts)


def _of_loop() -> dict[tuple[Any, str], str]:
    """What the thread that trains calls, by the part that it counts for."""
    from lmkit.checkpoints.saver import Saver
    from lmkit.optim import OptimizerSet
    from lmkit.text import Batch
    from lmkit.train.anomaly import Anomalies
    from lmkit.train.guard import Guard
    from lmkit.train.learner import Learner
    from lmkit.train.runner_base import LMRunnerBase
    from lmkit.train.watchdog import Watchdog

    stops, watchdog, anomalies, checksum, errors = GUARDS
    return {
        (LMRunnerBase, "run_stage"): RUN,
        (LMRunnerBase, "save_checkpoint"): LOOP[0],
        (LMRunnerBase, "await_checkpoint"): LOOP[1],
        (Guard, "meet"): stops,
        (Guard, "during"): stops,
        (Guard, "keep_room"): stops,
        (Watchdog, "beat"): watchdog,
        (Learner, "_judge"): anomalies,
        (Anomalies, "good"): anomalies,
        (Batch, "checksum"): checksum,
        (Saver, "check"): errors,
        (OptimizerSet, "grad_norm"): NORM,
    }


def _of_thread() -> dict[tuple[Any, str], str]:
    """What is called beside training; the last checkpoint's, while training waits for it."""
    from lmkit.checkpoints import record
    from lmkit.checkpoints.saver import Saver

    write, sha256 = THREAD
    return {
        (Saver, "_put"): write,
        (record.Digest, "update"): sha256,
        (record, "_hash_block"): sha256,  # read back; by several threads where a file is large
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this benchmark takes."""
    parser.add_argument("--shape", choices=sorted(SHAPES), default="4x256")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help="of a run")
    parser.add_argument("--every", type=int, default=EVERY, metavar="N", help="steps between saves")
    parser.add_argument("--rounds", type=int, default=2)


def run(arguments: argparse.Namespace) -> int:
    """Measure runs with saves and without; print and write what was found."""
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    shape = SHAPES[arguments.shape]
    report = Report("guards", arguments, {"shape": vars(shape), "arguments": vars(arguments)})
    table = _table(shape, arguments)
    contestants = [
        Contestant(name, "benchmarks.guards.Run", {"table": table, "saves": saves})
        for name, saves in ((SAVING, True), (NO_SAVES, False))
    ]
    result = compete(contestants, rounds=arguments.rounds, seconds=0, unit="steps")
    report.note("runs", result)
    for name in (SAVING, NO_SAVES):
        report.add(**_run_row(name, arguments.steps, arguments.every, result))
    every_step = 0.0
    for part in GUARDS:
        each = 1e6 * result.more(SAVING, part) / arguments.steps
        every_step += each
        report.add(guard=part, **{"microseconds a step": each})
    report.add(guard="all of them", **{"microseconds a step": every_step})
    norm = 1e6 * result.more(SAVING, NORM) / arguments.steps
    report.add(guard=f"beside them: the {NORM}", **{"microseconds a step": norm})
    return report.finish()


def _table(shape: Shape, arguments: argparse.Namespace) -> dict[str, Any]:
    """The experiment, with every guard on; it ends with the least evaluation that there is."""
    table = experiment(
        shape,
        gpt(shape),
        steps=arguments.steps,
        device=arguments.device,
        compile=False,
        text=__file__ if arguments.smoke else None,
        checkpoint={"every": arguments.every},
        evaluate={"tokens": shape.context},
    )
    del table["runner"]["class"]
    table["runner"] |= {"time_limit": "10h", "on_anomaly": {"policy": "skip", "spikes": 8}}
    return table


def _run_row(name: str, steps: int, every: int, result: Result) -> dict[str, Any]:
    """Seconds of a run; `lost %`: as much as its saves can have cost it, had no core been free."""
    seconds = steps / result.rate(name)
    parts = {part: result.more(name, part) for part in (*LOOP, *THREAD)}
    row: dict[str, Any] = {"run": name, "seconds": seconds}
    row |= {f"{part} s": found for part, found in parts.items()}
    saves = math.ceil(steps / every)
    beside = (saves - 1) / saves  # the loop waits for the last save: that is in `end`
    lost = sum(parts[part] for part in LOOP) + beside * sum(parts[part] for part in THREAD)
    row["lost %"] = 100 * lost / seconds
    row["slower %"] = 100 * (1 / result.ratio(name, NO_SAVES) - 1)
    return row
