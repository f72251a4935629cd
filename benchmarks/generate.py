"""generate: tokens a second in generation, lmkit's and its peers'.

    python -m benchmarks generate --nanochat DIR --threads 2

Four contests, of which --parts chooses:

    speed    one prompt, and sixteen of one length: lmkit's precisions, eager and compiled, against
             Hugging Face's generate and nanochat's Engine, models of one shape with new weights
    lengths  sixteen prompts of different lengths against sixteen of one length
    queue    many prompts with answers of very different lengths: those that wait enter where one
             has ended, against batches that are answered to their end
    lookup   text that repeats itself, guessed ahead from what was written before, against not

A model of batch 1 can be no faster than its weights are read: `of memory` is the share that it
reaches of the rate at which this machine reads memory, on a GPU of what its maker states.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.contest import Contestant, Result, compete
from benchmarks.entrants import choose
from benchmarks.machine import peak_read
from benchmarks.shapes import GPT2_HEAD_DIM, Shape, named
from benchmarks.table import Report
from lmkit.errors import ConfigError, did_you_mean

PROMPT, NEW, BATCH = 32, 256, 16
QUEUE, SLOTS, MEAN_ANSWER = 64, 16, 64
LOOKUP = 8  # tokens guessed ahead
DEFAULT_SHAPES = {"cpu": "6x384", "cuda": "124m,6x384"}
SEED = 1337  # of the prompts and of the weights
PARTS = ("speed", "lengths", "queue", "lookup")
SMOKE = {"shapes": "tiny", "rounds": 1, "seconds": 0.01}
SMOKE_SIZES = {"prompt": 4, "new": 6, "batch": 3, "queue": 4, "slots": 2}
WEIGHTS = ("bf16", "int8", "fp32")
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
LMKIT = "benchmarks.writers.Lmkit"
PEERS = ("hugging face", "nanochat")


@dataclass(frozen=True)
class Task:
    """Some prompts to be continued greedily.

    Attributes:
        shape: of the model; its context holds the longest prompt and what is written.
        head_dim: width of an attention head.
        lengths: tokens of each prompt.
        new_tokens: of every answer.
        device: cpu or cuda.
    """

    shape: Shape
    head_dim: int
    lengths: tuple[int, ...]
    new_tokens: int
    device: str

    def prompts(self) -> list[list[int]]:
        """The ids of each prompt, all different; the first is the tokenizer's bos."""
        random = np.random.default_rng(SEED)
        bos = self.shape.vocabulary - 1
        return [[bos, *random.integers(0, bos, length - 1).tolist()] for length in self.lengths]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this benchmark takes."""
    parser.add_argument("--shapes", help="such as 6x384 or 124m, between commas")
    parser.add_argument("--parts", default=",".join(PARTS), help="contests, between commas")
    parser.add_argument("--contestants", metavar="WORDS", help="those whose names hold one of them")
    parser.add_argument("--head-dim", type=int, default=GPT2_HEAD_DIM, help="default 64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round, at least")


def run(arguments: argparse.Namespace) -> int:
    """Measure each shape; print and write what was found."""
    sizes = {"prompt": PROMPT, "new": NEW, "batch": BATCH, "queue": QUEUE, "slots": SLOTS}
    if arguments.smoke:
        vars(arguments).update(SMOKE)
        sizes = SMOKE_SIZES
    wanted = arguments.parts.split(",")
    for part in wanted:
        if part not in PARTS:
            hint = did_you_mean(part, PARTS) or f"there are {', '.join(PARTS)}"
            raise ConfigError(f"there is no part {part!r}", hint=hint, at="--parts")
    report = Report("generate", arguments, sizes)
    for name in (arguments.shapes or DEFAULT_SHAPES[arguments.device]).split(","):
        shape = replace(named(name), context=2 * sizes["prompt"] + sizes["new"])
        lengths = (sizes["prompt"],) * sizes["batch"]
        task = Task(shape, arguments.head_dim, lengths, sizes["new"], arguments.device)
        parts = _Parts(name, task, sizes, arguments, report)
        for part in wanted:
            getattr(parts, part)()
    return report.finish()


class _Parts:
    """The contests of one shape; each adds its rows to the report."""

    def __init__(
        self,
        shape: str,
        task: Task,
        sizes: dict[str, int],
        arguments: argparse.Namespace,
        report: Report,
    ) -> None:
        self.shape, self.task, self.sizes = shape, task, sizes
        self.arguments, self.report = arguments, report
        self.ways = (False,) if arguments.smoke else (False, True)  # eager, compiled

    def speed(self) -> None:
        """lmkit and its peers, one prompt and many."""
        for batch in dict.fromkeys((1, self.sizes["batch"])):
            task = replace(self.task, lengths=self.task.lengths[:batch])
            contestants = choose(
                [*self._lmkit(task), *self._peers(task)], self.arguments.contestants
            )
            setting = f"{self.shape}, batch {batch}"
            result = self._compete(setting, contestants)
            for each in contestants:
                row: dict[str, Any] = {"setting": setting, "contestant": each.name}
                row["tokens/s"] = result.rate(each.name)
                row["of memory"] = self._of_memory(each.name, result) if batch == 1 else np.nan
                for peer in result.measures:
                    if peer.startswith(PEERS):
                        row[f"x {peer}"] = result.ratio(each.name, peer)
                self.report.add(**row)

    def lengths(self) -> None:
        """Prompts of different lengths, the mean the same."""
        middle = self.sizes["prompt"]
        spread = np.linspace(middle // 2, middle * 2 - middle // 2, self.sizes["batch"])
        uneven = replace(self.task, lengths=tuple(round(length) for length in spread))
        self._pairs("lengths", {"equal": {"task": self.task}, "different": {"task": uneven}})

    def queue(self) -> None:
        """Answers of very different lengths: exponential, as those of a chat roughly are."""
        count, slots = self.sizes["queue"], self.sizes["slots"]
        drawn = np.random.default_rng(0).exponential(MEAN_ANSWER, count)
        answers = tuple(drawn.astype(int).clip(2, self.sizes["new"]).tolist())
        task = replace(self.task, lengths=(self.sizes["prompt"],) * count)
        common = {"task": task, "weights": "bf16", "answers": answers, "slots": slots}
        contestants = [
            Contestant(name, "benchmarks.writers.Queue", {**common, "continuous": continuous})
            for name, continuous in {"fixed batches": False, "continuous": True}.items()
        ]
        self._add_pair(f"{self.shape}, queue of {count}, {slots} at a time", contestants)

    def lookup(self) -> None:
        """One prompt and many, of a model that goes in circles."""
        for batch in dict.fromkeys((1, self.sizes["batch"])):
            task = replace(self.task, lengths=self.task.lengths[:batch])
            common = {"task": task, "circles": True}
            ways = {"plain": common, f"lookup {LOOKUP}": {**common, "lookup": LOOKUP}}
            self._pairs(f"repeating text, batch {batch}", ways)

    def _lmkit(self, task: Task) -> list[Contestant]:
        """Its own architecture in each precision, GPT-2's in two; eager and compiled."""
        kinds = {f"lmkit {weights}": {"weights": weights} for weights in WEIGHTS}
        for weights in ("bf16", "int8"):
            kinds[f"lmkit gpt2 {weights}"] = {"weights": weights, "architecture": "gpt2"}
        return [
            Contestant(
                name + " compiled" * compiled, LMKIT, {"task": task, **kind, "compile": compiled}
            )
            for name, kind in kinds.items()
            for compiled in self.ways
        ]

    def _peers(self, task: Task) -> list[Contestant]:
        """Those that are given or installed."""
        found = []
        if importlib.util.find_spec("transformers"):
            entry = "benchmarks.peers.huggingface.Generate"
            for kind, precision in (("gpt2", "bf16"), ("llama", "bf16"), ("gpt2", "fp32")):
                given = {"task": task, "architecture": kind, "dtype": DTYPES[precision]}
                found.append(Contestant(f"hugging face {kind} {precision}", entry, given))
        if self.arguments.nanochat:
            entry = "benchmarks.peers.nanochat_engine.Generate"
            given = {"task": task, "folder": self.arguments.nanochat}
            for precision in ("bf16", "fp32"):
                environment = {"NANOCHAT_DTYPE": DTYPES[precision]}
                found.append(Contestant(f"nanochat {precision}", entry, given, environment))
        return found

    def _of_memory(self, name: str, result: Result) -> float:
        """The share of the rate at which memory is read that reading the weights takes."""
        per_token = result.more(name, "bytes")
        stated = peak_read(self.arguments.device)
        used = result.rate(name) / stated if stated else result.over_machine(name, "read")
        return per_token * used

    def _pairs(self, what: str, ways: dict[str, dict[str, Any]]) -> None:
        """Two ways of one thing, eager and compiled."""
        for compiled in self.ways:
            contestants = [
                Contestant(way, LMKIT, {"weights": "bf16", "compile": compiled, **given})
                for way, given in ways.items()
            ]
            self._add_pair(f"{self.shape}, {what}{', compiled' * compiled}", contestants)

    def _add_pair(self, setting: str, contestants: Sequence[Contestant]) -> None:
        """A row each; ratios are to the first."""
        result = self._compete(setting, contestants)
        first = contestants[0].name
        for each in contestants:
            rate = {
                "tokens/s": result.rate(each.name),
                "x the first": result.ratio(each.name, first),
            }
            self.report.add(setting=setting, way=each.name, **rate)

    def _compete(self, setting: str, contestants: Sequence[Contestant]) -> Result:
        """The contest, written down after every round."""

        def watch(result: Result) -> None:
            self.report.note(setting, result)
            self.report.save()

        arguments = self.arguments
        return compete(
            contestants,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            unit="tokens",
            device=arguments.device,
            watch=watch,
        )
