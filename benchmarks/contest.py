"""contest: contestants in processes of their own, asked for rounds of work by turns; knows no task.

A process each, because allocator settings, environment variables, threads and imports of one must
not help or hinder another. By turns, because a shared machine slows down for minutes: only rates
of the same round are compared. Compiled code is cached where torch caches it: that shortens the
preparation, which is not timed.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from benchmarks.machine import Probe
from lmkit.errors import LMKitError

CONTEXT = multiprocessing.get_context("spawn")
LOG_LINES = 20  # of what a contestant that failed has printed


class BenchmarkError(LMKitError):
    """A contestant failed, or there is none."""

    exit_code = 1


class Entry(Protocol):
    """What a contestant's class is: its `__init__(**arguments)` prepares and is not timed."""

    def round(self, seconds: float) -> Measure:
        """Work for at least `seconds`; gives what was done in which time."""


@dataclass(frozen=True)
class Measure:
    """One round: `amount` of the contest's unit in `seconds`, and `more` that is worth noting."""

    amount: float
    seconds: float
    more: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.amount / self.seconds


@dataclass(frozen=True)
class Contestant:
    """Who takes part.

    Args:
        name: unique in its contest.
        entry: the Entry's class, `benchmarks.train.Lmkit`; imported in the contestant's process.
        arguments: of its constructor; they are pickled.
        environment: variables that its process begins with, beside those of this one.
    """

    name: str
    entry: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """What a contest has brought so far.

    Attributes:
        unit: of the amounts; rates are of it a second.
        measures: of each contestant, one a round.
        machine: what the machine itself did before each round: see machine.Probe.
        failed: of contestants that left the contest, why.
    """

    unit: str
    measures: dict[str, list[Measure]]
    machine: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def rates(self, name: str) -> list[float]:
        """Of every round."""
        return [measure.rate for measure in self.measures[name]]

    def rate(self, name: str) -> float:
        """The median over rounds; NaN of one that failed before its first."""
        return median(self.rates(name))

    def more(self, name: str, key: str) -> float:
        """The median over rounds of something else that was noted; NaN if it never was."""
        return median([m.more[key] for m in self.measures[name] if key in m.more])

    def ratio(self, name: str, other: str) -> float:
        """How many times faster `name` was than `other`: the median over rounds of both."""
        return median([a / b for a, b in zip(self.rates(name), self.rates(other), strict=False)])

    def over_machine(self, name: str, probe: str) -> float:
        """The median over rounds of the contestant's rate over what `probe` gave just before."""
        probes = self.machine.get(probe, [])
        return median([a / b for a, b in zip(self.rates(name), probes, strict=False)])

    def as_json(self) -> dict[str, Any]:
        """Everything, as `json.dump` takes it."""
        return {
            "unit": self.unit,
            "rates": {name: self.rates(name) for name in self.measures},
            "more": {name: [dict(m.more) for m in each] for name, each in self.measures.items()},
            "machine": self.machine,
            "failed": self.failed,
        }


def load(path: str) -> Any:
    """What `module.Name` means, imported."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def median(values: Sequence[float]) -> float:
    """The median; NaN of nothing."""
    return statistics.median(values) if values else math.nan


def compete(
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    seconds: float,
    unit: str,
    machine: bool = True,
    device: str = "cpu",
    watch: Callable[[Result], None] | None = None,
) -> Result:
    """Prepare all contestants, then ask each for `rounds` rounds of `seconds`, by turns.

    Args:
        unit: what a contestant's amounts are: tokens, bytes.
        machine: time a matrix product and a read of memory before each round.
        device: on which that is done.
        watch: is shown the result after every round; for what takes long.

    A contestant that fails leaves the contest; `Result.failed` says why, and so does stderr.

    Raises:
        BenchmarkError: all of them failed.
    """
    result = Result(unit, {each.name: [] for each in contestants})
    with ExitStack() as stack:
        probe = Probe(device) if machine else None
        running: list[_Running] = []
        for contestant in contestants:
            with _leaving(contestant.name, result):
                _say(f"{contestant.name}: prepares")
                running.append(stack.enter_context(_started(contestant)))
        for turn in range(rounds):
            if probe:
                for key, rate in probe.measure().items():
                    result.machine.setdefault(key, []).append(rate)
            running = [each for each in running if each.name not in result.failed]
            for place in range(len(running)):
                each = running[(turn + place) % len(running)]  # nobody is always the first
                with _leaving(each.name, result):
                    measure = each.round(seconds)
                    result.measures[each.name].append(measure)
                    _say(f"{each.name}: round {turn + 1}/{rounds} {measure.rate:,.5g} {unit}/s")
            if watch:
                watch(result)
    if len(result.failed) == len(contestants):
        name, why = next(iter(result.failed.items()), ("", "there are no contestants"))
        raise BenchmarkError(why, at=name)
    return result


@contextmanager
def _leaving(name: str, result: Result) -> Iterator[None]:
    try:
        yield
    except BenchmarkError as error:
        result.failed[name] = error.what
        _say(f"error: {error}")


@contextmanager
def _started(contestant: Contestant) -> Iterator[_Running]:
    """The contestant in its process, prepared; the process ends with the block."""
    ours, theirs = CONTEXT.Pipe()
    with tempfile.NamedTemporaryFile(prefix="lmkit-contestant-", suffix=".log") as log:
        process = CONTEXT.Process(target=_serve, args=(theirs, contestant, log.name))
        with _environment(contestant.environment):
            process.start()
        theirs.close()
        running = _Running(contestant.name, ours, Path(log.name))
        try:
            running.answer()
            yield running
        finally:
            ours.close()
            process.join(timeout=5)
            process.kill()
            process.join()


@dataclass(frozen=True)
class _Running:
    """The parent's end of a contestant's process."""

    name: str
    connection: Connection
    log: Path

    def round(self, seconds: float) -> Measure:
        self.connection.send(seconds)
        measure = self.answer()
        assert isinstance(measure, Measure), measure
        return measure

    def answer(self) -> Measure | None:
        """What the contestant sends next; BenchmarkError if it failed or its process is gone."""
        try:
            answer = self.connection.recv()
        except EOFError:
            answer = _Failure("its process ended")
        if isinstance(answer, _Failure):
            lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            _say("\n".join([*lines, answer.traceback]))
            raise BenchmarkError(answer.what, at=self.name)
        return answer


@dataclass(frozen=True)
class _Failure:
    what: str
    traceback: str = ""


def _serve(connection: Connection, contestant: Contestant, log: str) -> None:
    """The contestant's process: prepare, then a round for every number that comes."""
    with open(log, "ab", buffering=0) as file:  # peers print as they go
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        entry: Entry = load(contestant.entry)(**contestant.arguments)
        connection.send(None)
        while True:
            connection.send(entry.round(connection.recv()))
    except EOFError:  # the contest is over
        return
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        connection.send(_Failure(what, traceback.format_exc()))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _say(text: str) -> None:
    print(text.rstrip(), file=sys.stderr, flush=True)
