"""train: tokens a second and model FLOP utilisation in training, lmkit's and its peers'.

    python -m benchmarks train --nanogpt DIR --nanochat DIR --threads 2

Every contestant trains a transformer of the same shape on the same rows of Python's standard
library: lmkit through its own `fit`, data, checks and metrics included, the peers in loops as their
scripts have them, with their batches ready in memory. The contestants called share are no racers:
see share. MFU is over the rate of a bf16 matrix product
in the same round; on a GPU over what its maker states.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contest import Measure, Result, compete, load
from benchmarks.entrants import Entrant, choose, lmkit, nanochats, nanogpts
from benchmarks.machine import peak_flops, rest, synchronize
from benchmarks.rows import lay_out
from benchmarks.shapes import ADAMW, NANOGPT_ADAMW, SHAPES, Shape, experiment, gpt, gpt2, named
from benchmarks.table import Report

SHARE = "share"  # of a step: how the names of those contestants begin
STEPS = 100_000  # of the plan: more than any round asks for
WARM_UP = 3  # steps: the first ones compile and allocate
PEER_STEPS = 16  # that the peers have data for; then the same again
LARGE_BATCH = 16_384  # tokens, at which Muon is to take less than a tenth of a step
DEFAULT_SHAPES = {"cpu": "4x256,6x384", "cuda": "124m,d20"}
SMOKE = {"shapes": "tiny", "rounds": 1, "seconds": 0.05, "contestants": "gpt muon eager"}


class Speed:
    """An Entry that steps a Trainer.

    Args:
        trainer: its class, `benchmarks.training.Training`,
        arguments: and what that takes.
    """

    def __init__(
        self, trainer: str, arguments: Mapping[str, Any], batch_tokens: int, device: str
    ) -> None:
        self._trainer = load(trainer)(**arguments)
        self._batch_tokens, self._device = batch_tokens, device
        for _ in range(WARM_UP):
            self._trainer.step()
        rest(device)

    def round(self, seconds: float) -> Measure:
        """Steps, after one that is not timed: it brings caches and memory back."""
        self._trainer.step()
        synchronize(self._device)
        steps, started = 0, time.perf_counter()
        while not steps or time.perf_counter() - started < seconds:
            self._trainer.step()  # each of them waits for its own loss: none runs far ahead
            steps += 1
        synchronize(self._device)
        passed = time.perf_counter() - started
        rest(self._device)
        return Measure(steps * self._batch_tokens, passed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this benchmark takes."""
    parser.add_argument("--shapes", help=f"of {', '.join(SHAPES)}, between commas")
    parser.add_argument("--contestants", metavar="WORDS", help="those whose names hold one of them")
    parser.add_argument("--head-dim", type=int, help="of gpt.GPT and nanochat (128, as they ship)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round, at least")


def run(arguments: argparse.Namespace) -> int:
    """Measure each shape, and the framework's share of a step; print and write what was found."""
    if arguments.smoke:
        given = vars(arguments)
        given |= {**SMOKE, "contestants": arguments.contestants or SMOKE["contestants"]}
    names = (arguments.shapes or DEFAULT_SHAPES[arguments.device]).split(",")
    shapes = {name: named(name) for name in names}
    settings = {"shapes": {n: vars(s) for n, s in shapes.items()}, "arguments": vars(arguments)}
    report = Report("train", arguments, settings)
    for name, shape in shapes.items():
        with tempfile.TemporaryDirectory(prefix="lmkit-rows-") as folder:
            _measure(name, shape, Path(folder, "rows.npz"), arguments, report)
    return report.finish()


def _measure(
    name: str, shape: Shape, rows: Path, arguments: argparse.Namespace, report: Report
) -> None:
    """The race of one shape, and after it the shares of a step, of those who were chosen."""
    make = partial(
        experiment,
        steps=STEPS,
        device=arguments.device,
        text=__file__ if arguments.smoke else None,
    )
    everybody: list[Entrant] = [*_of_lmkit(shape, make, arguments.head_dim)]
    everybody += nanogpts(arguments, str(rows), shape, STEPS)
    everybody += nanochats(arguments, str(rows), shape, STEPS)
    everybody += _shares(shape, make, arguments.head_dim)
    chosen = choose(everybody, arguments.contestants)
    if any(each.is_peer for each in chosen):
        lay_out(make(shape, gpt(shape)), PEER_STEPS).save(rows)
    racers = [each for each in chosen if not each.name.startswith(SHARE)]
    if racers:
        more = {"batch_tokens": shape.batch_tokens, "device": arguments.device}
        found = _compete(racers, "benchmarks.train.Speed", more, arguments, report, name)
        for each in racers:
            report.add(**_row(name, shape, each.name, found, arguments.device))
    shares = [each for each in chosen if each.name.startswith(SHARE)]
    if shares:
        found = _compete(
            shares, "benchmarks.share.Share", {}, arguments, report, f"{name}, {SHARE}"
        )
        for each in shares:
            report.add(**_share_row(name, each.name, found))


def _of_lmkit(shape: Shape, make: Any, head_dim: int | None) -> list[Entrant]:
    """nanoGPT's architecture and recipe, and lmkit's own with two optimizers: eager, compiled."""
    recipes: dict[str, Any] = {
        "gpt2": (gpt2(shape), {"optimizers": [NANOGPT_ADAMW], "clip": 1.0}),
        "gpt muon": (gpt(shape, head_dim), {}),
        "gpt adamw": (gpt(shape, head_dim), {"optimizers": [ADAMW]}),
    }
    if not shape.suits_gpt2:
        del recipes["gpt2"]
    return [
        lmkit(f"{name} {word}", make(shape, model, compile=word == "compiled", **stage))
        for name, (model, stage) in recipes.items()
        for word in ("eager", "compiled")
    ]


def _shares(shape: Shape, make: Any, head_dim: int | None) -> list[Entrant]:
    """lmkit's own model, eager, at the shape's batch and at a large one."""
    sizes = sorted({shape.batch_tokens, max(shape.batch_tokens, LARGE_BATCH)})
    shapes = [replace(shape, batch_tokens=tokens) for tokens in sizes]
    return [
        lmkit(f"{SHARE} {each.batch_tokens}", make(each, gpt(each, head_dim), compile=False))
        for each in shapes
    ]


def _compete(
    entrants: Sequence[Entrant],
    entry: str,
    more: Mapping[str, Any],
    arguments: argparse.Namespace,
    report: Report,
    name: str,
) -> Result:
    """The contest, written down after every round."""

    def watch(result: Result) -> None:
        report.note(name, result)
        report.save()

    return compete(
        [each.contestant(entry, **more) for each in entrants],
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        unit="tokens",
        device=arguments.device,
        machine=entry.endswith("Speed"),
        watch=watch,
    )


def _row(setting: str, shape: Shape, name: str, result: Result, device: str) -> dict[str, Any]:
    peak = peak_flops(device)
    used = result.rate(name) / peak if peak else result.over_machine(name, "bf16")
    row = {"setting": setting, "contestant": name, "tokens/s": result.rate(name)}
    row["MFU"] = shape.flops_per_token * used
    for other in result.measures:
        if other.startswith("nano"):
            row[f"x {other}"] = result.ratio(name, other)
    compiled = name.replace("eager", "compiled")
    is_pair = compiled != name and compiled in result.measures
    row["x compiled"] = result.ratio(name, compiled) if is_pair else float("nan")
    return row


def _share_row(setting: str, name: str, result: Result) -> dict[str, Any]:
    row: dict[str, Any] = {"setting": setting, "step of tokens": name.removeprefix(f"{SHARE} ")}
    row |= {"tokens/s": result.rate(name)}
    row |= {"framework %": 100 * result.more(name, "framework")}
    return row | {"optimizers %": 100 * result.more(name, "optimizers")}
