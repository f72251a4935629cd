"""keeping: which checkpoints of a run stay, and why; reads and deletes nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeVar

from lmkit.checkpoints.best import Best
from lmkit.errors import ConfigError

LATEST = "latest"
END = "last of its stage"
BEST = "best of its stage"
STAYS = "stays"  # it was saved to: `keep_every`
NEEDED = "gone back to after an anomaly"


class Entry(Protocol):
    """What the rules ask of a checkpoint."""

    @property
    def name(self) -> str:
        """Of its folder; no other's."""

    @property
    def stage(self) -> str:
        """The stage it was written in."""

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Of the last evaluation."""

    @property
    def stays(self) -> bool:
        """Whether it was saved to stay."""


E = TypeVar("E", bound=Entry)


@dataclass
class KeepRules:
    """The last `keep` checkpoints stay, the last one of every stage, the best of every stage that
    names a metric, those that were saved to stay, and the one that is needed.

    Attributes:
        keep: at least 2: the newest may turn out damaged.
        best: stage -> its metric.
        needed: the name of one that the run may yet go back to.
    """

    keep: int = 2
    best: Mapping[str, Best] = field(default_factory=dict)
    needed: str | None = None

    @classmethod
    def of(cls, keep: int, best: Mapping[str, str | None]) -> KeepRules:
        """As an experiment says it: the metric of each stage that has one, as `Best.of` reads it.

        Raises:
            ConfigError: too few are kept.
        """
        if keep < 2:
            hint = "2 or more: the newest may be damaged"
            raise ConfigError(f"keep: {keep} is too few", hint=hint)
        return cls(keep, {stage: Best.of(text) for stage, text in best.items() if text})

    def staying(
        self, entries: Sequence[E], is_good: Callable[[E], bool] = lambda entry: True
    ) -> dict[str, list[str]]:
        """The names of those that stay, each with the reasons.

        Args:
            entries: oldest first.
            is_good: whether one counts; asked as seldom as can be, as it may read all of it.
        """
        kept: dict[str, list[str]] = {}
        newest_first = list(reversed(entries))
        for entry in islice(filter(is_good, newest_first), self.keep):
            kept.setdefault(entry.name, []).append(LATEST)
        for stage in dict.fromkeys(entry.stage for entry in entries):
            own = (entry for entry in newest_first if entry.stage == stage)
            for entry in islice(filter(is_good, own), 1):
                kept.setdefault(entry.name, []).append(END)
            if (best := self.best_of(stage, entries, is_good)) is not None:
                kept.setdefault(best.name, []).append(BEST)
        for entry in entries:
            if entry.stays:
                kept.setdefault(entry.name, []).append(STAYS)
            if entry.name == self.needed:
                kept.setdefault(entry.name, []).append(NEEDED)
        return kept

    def best_of(
        self, stage: str, entries: Sequence[E], is_good: Callable[[E], bool] = lambda entry: True
    ) -> E | None:
        """The best good one of a stage; None if it names no metric, or none was measured."""
        best = self.best.get(stage)
        if best is None:
            return None
        own = [entry for entry in entries if entry.stage == stage]
        ranks = [(rank, entry) for entry in own if (rank := best.rank(entry.metrics)) is not None]
        ranked = sorted(ranks, key=lambda pair: pair[0])
        return next((entry for _, entry in ranked if is_good(entry)), None)

    def is_best(
        self,
        stage: str,
        metrics: Mapping[str, float],
        entries: Sequence[E],
        is_good: Callable[[E], bool] = lambda entry: True,
    ) -> bool:
        """Whether no entry of the stage is as good as `metrics`; False if it names no metric.

        Raises:
            ConfigError: its metric is not among the metrics.
        """
        best = self.best.get(stage)
        if best is None:
            return False
        rank = best.rank(metrics)
        if rank is None:
            raise ConfigError(f"no best to keep: {best.metric!r} was not measured")
        entry = self.best_of(stage, entries, is_good)
        known = best.rank(entry.metrics) if entry else None
        return known is None or rank < known
