"""A contest: processes of their own, rounds by turns, and those who leave it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.contest import BenchmarkError, Contestant, Measure, Result, compete

ENTRIES = """\
import os
from benchmarks.contest import Measure

class Steady:
    def __init__(self, rate):
        self.rate, self.rounds = rate, 0

    def round(self, seconds):
        self.rounds += 1
        more = {"pid": os.getpid(), "colour": float(os.environ.get("COLOUR", 0))}
        return Measure(self.rate * self.rounds, self.rounds, more)

class Unready:
    def __init__(self):
        print("a word on the way")
        raise ValueError("not today")

class Quits:
    def round(self, seconds):
        os._exit(3)
"""


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_entries.py").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("entries")
def test_a_contest(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    result = compete(
        [
            Contestant("fast", "some_entries.Steady", {"rate": 6.0}, {"COLOUR": "7"}),
            Contestant("unready", "some_entries.Unready"),
            Contestant("slow", "some_entries.Steady", {"rate": 2.0}),
            Contestant("quits", "some_entries.Quits"),
        ],
        rounds=2,
        seconds=0.0,
        unit="things",
        machine=False,
        watch=lambda result: seen.append(len(result.measures["slow"])),
    )
    assert result.rates("fast") == [6.0, 6.0]
    assert result.ratio("fast", "slow") == 3.0
    assert (result.more("fast", "colour"), result.more("slow", "colour")) == (7.0, 0.0)
    assert len({result.more("fast", "pid"), result.more("slow", "pid"), os.getpid()}) == 3
    assert "COLOUR" not in os.environ
    assert result.failed == {
        "unready": "ValueError: not today",
        "quits": "its process ended",
    }
    assert result.rate("quits") != result.rate("quits")  # NaN
    assert seen == [1, 2]
    said = capsys.readouterr().err
    assert "a word on the way" in said  # what it printed before it failed
    assert "error: unready: ValueError: not today" in said
    # in the second round the other one begins
    rounds = [line.split(":")[0] for line in said.splitlines() if "round" in line]
    assert rounds == ["fast", "slow", "slow", "fast"]


@pytest.mark.usefixtures("entries")
def test_a_contest_that_nobody_is_left_in() -> None:
    nobody = [Contestant("unready", "some_entries.Unready")]
    with pytest.raises(BenchmarkError, match="unready: ValueError: not today"):
        compete(nobody, rounds=1, seconds=0.0, unit="things", machine=False)


def test_only_rates_of_the_same_round_are_compared() -> None:
    # the machine halves its speed after the first round: ratios of medians would say 1.0
    rounds = {"a": [4.0, 2.0, 2.0], "b": [2.0, 1.0]}
    result = Result("things", {k: [Measure(rate, 1.0) for rate in v] for k, v in rounds.items()})
    result.machine["bf16"] = [8.0, 8.0, 4.0]
    assert result.ratio("a", "b") == 2.0
    assert result.over_machine("a", "bf16") == 0.5
