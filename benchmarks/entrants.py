"""entrants: who can take part in a contest of training: lmkit's models, and the peers given."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from benchmarks.contest import BenchmarkError, Contestant
from benchmarks.shapes import Shape


@dataclass(frozen=True)
class Entrant:
    """A Trainer, named.

    Attributes:
        trainer: its class, `benchmarks.training.Training`,
        arguments: and what that takes.
        environment: variables of its process.
    """

    name: str
    trainer: str
    arguments: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_peer(self) -> bool:
        """Whether it is none of lmkit's."""
        return ".peers." in self.trainer

    def contestant(self, entry: str, **more: Any) -> Contestant:
        """The contestant whose Entry steps this Trainer; `more` is for the Entry."""
        arguments = {"trainer": self.trainer, "arguments": self.arguments, **more}
        return Contestant(self.name, entry, arguments, self.environment)


Named = TypeVar("Named", Entrant, Contestant)


def lmkit(name: str, table: Mapping[str, Any], overrides: Sequence[str] = ()) -> Entrant:
    """An experiment of `shapes.experiment`."""
    arguments = {"table": table, "overrides": list(overrides)}
    return Entrant(name, "benchmarks.training.Training", arguments)


def nanogpts(
    arguments: argparse.Namespace, rows: str, shape: Shape, steps: int, *, shipped: bool = True
) -> list[Entrant]:
    """nanoGPT, if it is given, in bf16; with `shipped` also as it does on a CPU by itself: fp32."""
    if not arguments.nanogpt:
        return []
    common = _common(arguments, rows, shape, steps) | {"folder": arguments.nanogpt}
    labels = {"nanogpt bf16": True} | (
        {"nanogpt as shipped": False} if shipped and _on_cpu(arguments) else {}
    )
    return [
        Entrant(name, "benchmarks.peers.nanogpt.NanoGPT", {**common, "bf16": bf16})
        for name, bf16 in labels.items()
    ]


def nanochats(
    arguments: argparse.Namespace,
    rows: str,
    shape: Shape,
    steps: int,
    rates: Sequence[float] = (1.0,),
    *,
    shipped: bool = True,
) -> list[Entrant]:
    """nanochat, if it is given, in bf16, once for each factor on its rates; with `shipped` also as
    it does on a CPU by itself: fp32."""
    if not arguments.nanochat:
        return []
    common = _common(arguments, rows, shape, steps) | {"folder": arguments.nanochat}
    common |= {"head_dim": arguments.head_dim}
    trainer = "benchmarks.peers.nanochat.Nanochat"
    found = [
        Entrant(
            "nanochat bf16" + (f", rates x {factor:g}" if factor != 1 else ""),
            trainer,
            {**common, "rates": factor},
            {"NANOCHAT_DTYPE": "bfloat16"},
        )
        for factor in rates
    ]
    if shipped and _on_cpu(arguments):
        found.append(Entrant("nanochat as shipped", trainer, common, {"NANOCHAT_DTYPE": "float32"}))
    return found


def choose(entrants: Sequence[Named], words: str | None) -> list[Named]:
    """Those whose names hold one of the words, which stand between commas; all without any.

    Raises:
        BenchmarkError: a word is in no name.
    """
    if not words:
        return list(entrants)
    wanted = [word.strip() for word in words.split(",")]
    for word in wanted:
        if not any(word in each.name for each in entrants):
            names = ", ".join(each.name for each in entrants)
            hint = f"there are {names}"
            raise BenchmarkError(f"nobody is called {word!r}", hint=hint, at="--contestants")
    return [each for each in entrants if any(word in each.name for word in wanted)]


def _common(arguments: argparse.Namespace, rows: str, shape: Shape, steps: int) -> dict[str, Any]:
    return {"rows": rows, "shape": shape, "device": arguments.device, "steps": steps}


def _on_cpu(arguments: argparse.Namespace) -> bool:
    return bool(arguments.device == "cpu")
