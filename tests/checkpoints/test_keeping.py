"""Which checkpoints stay, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from lmkit.checkpoints.keeping import BEST, END, LATEST, STAYS, KeepRules
from lmkit.errors import ConfigError


@dataclass(frozen=True)
class Entry:
    name: str
    stage: str = "a"
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    stays: bool = False


def test_each_has_its_reasons() -> None:
    entries = [
        Entry("1", metrics={"loss": 1.0}),
        Entry("2", metrics={"loss": 2.0}, stays=True),
        Entry("3", metrics={"loss": None}),
        Entry("4", metrics={"loss": 3.0}),
        *(Entry(name, "b", {"loss": 0.0}) for name in "567"),
    ]
    kept = KeepRules.of(2, {"a": "loss", "b": None}).staying(entries)
    assert kept == {"7": [LATEST, END], "6": [LATEST], "4": [END], "1": [BEST], "2": [STAYS]}


def test_a_bad_one_counts_for_nothing() -> None:
    entries = [Entry(name, metrics={"loss": float(name)}) for name in "12345"]
    kept = KeepRules.of(2, {"a": "loss"}).staying(entries, lambda entry: entry.name not in "15")
    assert kept == {"4": [LATEST, END], "3": [LATEST], "2": [BEST]}


def test_goodness_is_asked_of_no_more_than_need_be() -> None:
    asked = []

    def is_good(entry: Entry) -> bool:
        asked.append(entry.name)
        return True

    KeepRules().staying([Entry(name) for name in "123456"], is_good)
    assert set(asked) == {"6", "5"}


def test_one_is_too_few() -> None:
    with pytest.raises(ConfigError, match="keep: 1 is too few"):
        KeepRules.of(1, {})
