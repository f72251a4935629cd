"""The line tells where a stage stands; an output that went away is no reason to stop."""

from __future__ import annotations

import io

import pytest

from lmkit.train import display
from lmkit.train.display import Display, readable_count, readable_time


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_terminal_gets_a_bar_with_all_that_matters() -> None:
    out = Terminal()
    line = Display("pretrain", 10, done=4, out=out)
    for _ in range(6):
        line.pace(tokens=1000, seconds=0.5, waited=0.05)
        line.show(2.5, 1.25)
    line.close()
    last = out.getvalue().split("\r")[-1]
    for part in ("pretrain", "10/10", "loss 2.5000", "1.2500 bits/byte", "2k tokens/s", "data 10%"):
        assert part in last


def test_a_log_gets_a_line_now_and_then_and_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    line = Display("a", 100, out=out)
    for _ in range(100):
        now[0] += 0.3
        line.pace(tokens=300, seconds=0.3, waited=0.0)
        line.show(2.0, None)
    line.close()
    shown = out.getvalue().splitlines()
    assert [text.split(":")[0] for text in shown] == ["a 34/100", "a 68/100", "a 100/100"]
    assert shown[0] == "a 34/100: loss 2.0000, 1k tokens/s, data 0%, 20s left"


def test_texts_come_through() -> None:
    for out in (Terminal(), io.StringIO()):
        line = Display("a", 10, out=out)
        line.say("a sample")
        line.close()
        assert "a sample\n" in out.getvalue()


def test_an_output_that_is_gone_is_no_error() -> None:
    line = Display("a", 1, out=Gone())
    line.pace(1, 1.0, 0.0)
    line.show(None, None)
    line.say("words")
    line.close()
    closed = io.StringIO()
    line = Display("a", 1, out=closed)
    closed.close()
    line.pace(1, 1.0, 0.0)
    line.show(1.0, None)


def test_numbers_read_well() -> None:
    counts = [0, 7.6, 999, 8190, 1_500_000, 2e9, 3e12]
    assert [readable_count(n) for n in counts] == ["0", "7.6", "999", "8.19k", "1.5M", "2B", "3T"]
    times = [0.4, 9.96, 59.6, 187, 7500]
    assert [readable_time(t) for t in times] == ["0.4s", "10s", "1m00s", "3m07s", "2h05m"]
