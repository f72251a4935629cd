"""The line tells where a stage stands; an output that went away is no reason to stop."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import termios
from collections.abc import Iterator

import pytest

from lmkit.train import display
from lmkit.train.display import Display, readable_count, readable_time


class Terminal:
    """A real one, of so many columns."""

    def __init__(self, columns: int) -> None:
        self.end, inner = os.openpty()
        self.out = os.fdopen(inner, "w", encoding="utf-8")
        self.resize(columns)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def written(self) -> str:
        """All since it was asked last."""
        print("<end>", end="", file=self.out, flush=True)
        seen = b""
        while not seen.endswith(b"<end>"):
            seen += os.read(self.end, 4096)
        return seen.decode().removesuffix("<end>").replace("\r\n", "\n")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal(80)
    yield terminal
    terminal.out.close()
    os.close(terminal.end)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


ALL = (
    "pretrain 8/1000, 8m16s left: loss 2.5000, 10.9k tokens/s, mfu 40%, data 10%, 1.2500 bits/byte"
)


@pytest.mark.parametrize(
    ("columns", "last"),
    [
        (200, ALL),
        (80, ALL.partition(", 1.25")[0]),
        (60, ALL.partition(", mfu")[0]),
        (34, ALL[:33]),
    ],
)
def test_a_terminal_gets_as_many_whole_parts_as_it_holds(
    terminal: Terminal, now: list[float], columns: int, last: str
) -> None:
    terminal.resize(columns)
    line = Display("pretrain", 1000, done=4, out=terminal.out, full_speed=27_250)
    assert terminal.written() == "\rpretrain 4/1000"
    for _ in range(4):
        now[0] += 0.5
        line.pace(tokens=5450, seconds=0.5, waited=0.05)
        line.show(2.5, 1.25)
    line.close()
    first, *_, shown = terminal.written().split("\r")
    assert (first, shown) == ("", f"{last}\n")


def test_a_line_is_written_over_wholly_and_not_too_often(
    terminal: Terminal, now: list[float]
) -> None:
    line = Display("a", 99, out=terminal.out)
    for pause, reward in ((0.5, 1000.0), (0.05, 2.0), (0.07, 1.0)):
        now[0] += pause
        line.pace(1, 1.0, 0.0)
        line.show(None, None, reward)
    long, short = "a 1/99, 1m38s left: reward 1000.000", "a 3/99, 1m36s left: reward 1.000   "
    more = ", 1 tokens/s, data 0%"
    assert terminal.written() == f"\ra 0/99\r{long}{more}\r{short.rstrip()}{more}   "
    line.say("words")
    standing = f"{short.rstrip()}{more}"
    assert terminal.written() == f"\r{' ' * len(standing)}\rwords\n\r{standing}"


def test_a_terminal_without_columns_gets_lines(terminal: Terminal, now: list[float]) -> None:
    terminal.resize(0)
    line = Display("a", 2, out=terminal.out)
    for _ in range(2):
        line.pace(300, 0.5, 0.0)
        line.show(2.0, None)
    line.close()
    assert terminal.written() == "a 2/2, 0.0s left: loss 2.0000, 600 tokens/s, data 0%\n"


def test_a_log_gets_a_line_now_and_then_and_the_last_one(now: list[float]) -> None:
    out = io.StringIO()
    line = Display("a", 100, out=out)
    for _ in range(100):
        now[0] += 0.3
        line.pace(tokens=300, seconds=0.3, waited=0.0)
        line.show(2.0, None)
    line.close()
    shown = out.getvalue().splitlines()
    assert [text.split(",")[0] for text in shown] == ["a 34/100", "a 68/100", "a 100/100"]
    assert shown[0] == "a 34/100, 20s left: loss 2.0000, 1k tokens/s, data 0%"


def test_what_a_model_wrote_does_not_steer_a_terminal(terminal: Terminal) -> None:
    sample, out = "a\x07\x1b[2J\x7f\x9b\r\tb\nc", io.StringIO()
    for each in (terminal.out, out):
        Display("a", 10, out=each).say(sample)
    assert "\ra␇␛[2J␡\ufffd␍\tb\nc\n\r" in terminal.written()
    assert out.getvalue() == f"{sample}\n"  # as it is, for whoever reads it on


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
