"""loss: held-out bits per byte after so many tokens, and how soon a peer's is reached.

    python -m benchmarks loss --nanogpt DIR --nanochat DIR --nanochat-rates 1,4,8 --threads 2

All learn from the same batches in the same order and are measured on the same held-out rows. They
take turns every few steps, so that their seconds are of the same hours. The time of the first
steps, which compile, is taken to be that of the others.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contest import Measure, Result, compete, load
from benchmarks.entrants import Entrant, choose, lmkit, nanochats, nanogpts
from benchmarks.machine import synchronize
from benchmarks.rows import lay_out
from benchmarks.shapes import Shape, experiment, gpt, named
from benchmarks.table import Report

UNTIMED = 3  # steps at the beginning
# the schedule of experiments/quickstart.yaml
SCHEDULE = {"class": "lmkit.optim.schedule.WarmupStableDecay", "warmup": 0.02, "decay": 0.5}
SMOKE = {"shape": "tiny", "tokens": "512,1024", "every": 4, "held_out": 256}


class Curve:
    """An Entry that trains to the next stop and measures bits per byte there.

    Args:
        trainer: a Trainer's class, `benchmarks.training.Training`,
        arguments: and what that takes.
        stops: steps after which to measure; one a round.
    """

    def __init__(
        self,
        trainer: str,
        arguments: Mapping[str, Any],
        stops: Sequence[int],
        batch_tokens: int,
        device: str,
    ) -> None:
        self._trainer = load(trainer)(**arguments)
        self._lengths = iter([b - a for a, b in itertools.pairwise([0, *stops])])
        self._batch_tokens, self._device = batch_tokens, device
        self._untimed = UNTIMED

    def round(self, seconds: float) -> Measure:
        """The steps to the next stop, however long they take."""
        times = []
        for _ in range(next(self._lengths)):
            started = time.perf_counter()
            self._trainer.step()
            synchronize(self._device)
            times.append(time.perf_counter() - started)
        timed = times[self._untimed :] or times[-1:]
        passed = sum(timed) + (len(times) - len(timed)) * statistics.median(timed)
        self._untimed = 0
        more = {
            "bits_per_byte": self._trainer.bits_per_byte(),
            "parameters": float(self._trainer.parameters),
        }
        return Measure(len(times) * self._batch_tokens, passed, more)


@dataclass(frozen=True)
class Descent:
    """Where a contestant stood at each of its stops.

    Attributes:
        tokens: trained on by then.
        seconds: of training by then.
        bits_per_byte: held out.
    """

    tokens: tuple[float, ...]
    seconds: tuple[float, ...]
    bits_per_byte: tuple[float, ...]

    @classmethod
    def of(cls, measures: Sequence[Measure]) -> Descent:
        """Of a contestant's rounds."""
        return cls(
            tuple(itertools.accumulate(measure.amount for measure in measures)),
            tuple(itertools.accumulate(measure.seconds for measure in measures)),
            tuple(measure.more["bits_per_byte"] for measure in measures),
        )

    def at(self, tokens: float) -> float:
        """Bits per byte at the stop after so many tokens; NaN if it was not reached."""
        return dict(zip(self.tokens, self.bits_per_byte, strict=True)).get(tokens, math.nan)

    def reaches(self, bits_per_byte: float) -> tuple[float, float]:
        """Tokens and seconds until then, on the straight line between two stops; NaN if never.

        The curve hangs below that line, so it is a little late.
        """
        found = self.bits_per_byte
        index = next((i for i, value in enumerate(found) if value <= bits_per_byte), None)
        if index is None:
            return math.nan, math.nan
        if index == 0:  # at the first stop at the latest
            return self.tokens[0], self.seconds[0]
        before = index - 1
        share = (found[before] - bits_per_byte) / (found[before] - found[index])
        tokens, seconds = (
            values[before] + share * (values[index] - values[before])
            for values in (self.tokens, self.seconds)
        )
        return tokens, seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this benchmark takes."""
    parser.add_argument("--shape", default="4x256")
    parser.add_argument("--text", metavar="FILE", help="instead of Python's standard library")
    parser.add_argument(
        "--tokens", default="500000,1000000,1500000", help="after which to report; the last ends it"
    )
    parser.add_argument("--every", type=int, default=20, help="steps between two measurements")
    parser.add_argument("--held-out", type=int, default=65_536, help="tokens to measure on")
    parser.add_argument("--seed", type=int, default=1337, help="of lmkit's weights and the batches")
    parser.add_argument("--contestants", metavar="WORDS", help="those whose names hold one of them")
    parser.add_argument("--head-dim", type=int, help="of gpt.GPT and nanochat (128, as they ship)")
    parser.add_argument("--compile", choices=["auto", "true", "false"], default="auto")
    parser.add_argument(
        "--nanochat-rates", default="1", help="factors on the rates that its own rule gives"
    )
    parser.add_argument("--lmkit-rates", default="1", help="factors on those of optimizers: auto")
    parser.add_argument(
        "--variant",
        nargs="+",
        action="append",
        default=[],
        metavar="WORD",
        help="one more of lmkit's: NAME KEY=VALUE ..., changes to its experiment",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train all of them side by side; print and write what was found, after every stop."""
    if arguments.smoke:
        vars(arguments).update(SMOKE, text=__file__)
    shape = named(arguments.shape)
    points = [round(tokens / shape.batch_tokens) for tokens in _numbers(arguments.tokens)]
    steps = max(points)
    stops = sorted({*points, *range(arguments.every, steps, arguments.every)} - {0})
    settings = {"shape": vars(shape), "steps": steps, "arguments": vars(arguments)}
    report = Report("loss", arguments, settings)

    def watch(result: Result) -> None:
        report.rows = _rows(result, [point * shape.batch_tokens for point in points])
        report.note(arguments.shape, result)
        report.save()

    with tempfile.TemporaryDirectory(prefix="lmkit-rows-") as folder:
        entrants = _entrants(arguments, shape, steps, Path(folder, "rows.npz"))
        more = {"stops": stops, "batch_tokens": shape.batch_tokens, "device": arguments.device}
        result = compete(
            [each.contestant("benchmarks.loss.Curve", **more) for each in entrants],
            rounds=len(stops),
            seconds=0.0,
            unit="tokens",
            device=arguments.device,
            machine=not arguments.smoke,
            watch=watch,
        )
    watch(result)
    return report.finish()


def _entrants(arguments: argparse.Namespace, shape: Shape, steps: int, rows: Path) -> list[Entrant]:
    table = experiment(
        shape,
        gpt(shape, arguments.head_dim),
        steps=steps,
        device=arguments.device,
        compile={"true": True, "false": False}.get(arguments.compile, "auto"),
        text=arguments.text,
        schedule=SCHEDULE,
        evaluate={"tokens": arguments.held_out},
    )
    table["seed"] = arguments.seed
    entrants = [
        lmkit(
            "lmkit gpt" + (f", rates x {factor:g}" if factor != 1 else ""),
            table,
            [f"stages.train.lr_scale={factor}"],
        )
        for factor in _numbers(arguments.lmkit_rates)
    ]
    entrants += [lmkit(f"lmkit {name}", table, changes) for name, *changes in arguments.variant]
    entrants += nanogpts(arguments, str(rows), shape, steps, shipped=False)
    entrants += nanochats(
        arguments, str(rows), shape, steps, _numbers(arguments.nanochat_rates), shipped=False
    )
    entrants = choose(entrants, arguments.contestants)
    if any(each.is_peer for each in entrants):
        lay_out(table, steps).save(rows)
    return entrants


def _rows(result: Result, points: Sequence[int]) -> list[dict[str, Any]]:
    """A row a contestant, then a row for each pair of one of lmkit's and a peer."""
    descents = {name: Descent.of(found) for name, found in result.measures.items()}
    rows: list[dict[str, Any]] = []
    for name, descent in descents.items():
        row: dict[str, Any] = {"contestant": name}
        row["parameters"] = result.more(name, "parameters")
        row |= {f"bpb at {point / 1e6:.3g}M": descent.at(point) for point in points}
        row["training s"] = descent.seconds[-1] if descent.seconds else math.nan
        rows.append(row)
    for name, peer in itertools.product(descents, descents):
        if peer.startswith("nano") and not name.startswith("nano") and descents[peer].tokens:
            rows.append(_reaching(name, descents[name], peer, descents[peer]))
    return rows


def _reaching(name: str, ours: Descent, peer: str, theirs: Descent) -> dict[str, Any]:
    value = theirs.bits_per_byte[-1]
    tokens, seconds = ours.reaches(value)
    return {
        "contestant": name,
        "reaches": f"{value:.3f} of {peer}",
        "tokens": tokens,
        "x its tokens": tokens / theirs.tokens[-1],
        "x its seconds": seconds / theirs.seconds[-1],
    }


def _numbers(words: str) -> list[float]:
    return [float(word) for word in words.split(",")]
