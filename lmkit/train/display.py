"""display: the line a run shows while it goes, written over on a terminal, else a new one now and
then; and what of a text a terminal may be sent.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

LINE_EVERY = 10.0  # seconds between two lines where none can be written over
DRAWN_EVERY = 0.1  # seconds between two states of one that can
WINDOW = 20  # steps that speed and waiting are averaged over
WRITTEN = "▸"  # between a prompt and what the model wrote after it
# what a model writes shall not move the cursor or do worse; line feed and tab are enough
SYMBOLS = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"},
    127: 0x2421,
    **dict.fromkeys(range(128, 160), 0xFFFD),
}


class Display:
    """Shows one stage's progress on stderr. An output that is gone is no reason to stop.

    Args:
        stage: its name.
        steps: how many it has.
        done: how many were done before a resume.
        full_speed: tokens a second at the devices' peak; None where that is not known.
    """

    def __init__(
        self,
        stage: str,
        steps: int,
        done: int = 0,
        out: TextIO | None = None,
        full_speed: float | None = None,
    ) -> None:
        self.stage, self.steps, self.done = stage, steps, done
        self._full_speed = full_speed
        self._out = sys.stderr if out is None else out
        self._pace: deque[tuple[int, float, float]] = deque(maxlen=WINDOW)
        self._shown_at = time.monotonic()
        self._standing = ""  # what the next state is written over
        if columns := columns_of(self._out):
            self._draw(f"{stage} {done}/{steps}", columns)

    def pace(self, tokens: int, seconds: float, waited: float) -> None:
        """Count a step that was just made, whose loss is not known yet."""
        self._pace.append((tokens, seconds, waited))
        self.done += 1

    def show(
        self, loss: float | None, bits_per_byte: float | None, reward: float | None = None
    ) -> None:
        """Show how far the stage is, and what was last measured; of answers their reward."""
        columns = columns_of(self._out)
        if not self._is_time(DRAWN_EVERY if columns else LINE_EVERY):
            return
        parts = [f"loss {loss:.4f}" if loss is not None else "loss not finite", *self._speed()]
        if reward is not None:
            parts[0] = f"reward {reward:.3f}"
        elif bits_per_byte is not None:
            parts.append(f"{bits_per_byte:.4f} bits/byte")
        parts[0] = f"{self.stage} {self.done}/{self.steps}, {self._time_left()}: {parts[0]}"
        if columns:
            self._draw(fitted(parts, columns - 1), columns)
        else:
            say(", ".join(parts), self._out)

    def say(self, text: str) -> None:
        """Print a text above the line."""
        standing, columns = self._standing, columns_of(self._out)
        if standing:
            self._draw("", columns)
            write("\r", self._out)
        say(text, self._out)
        if standing:
            self._draw(standing, columns)

    def close(self) -> None:
        """Leave the last state of the line standing."""
        if self._standing:
            write("\n", self._out)
        self._standing = ""

    def _draw(self, line: str, columns: int) -> None:
        """Write a line over the one that stands; the last column would begin another one."""
        write("\r" + line.ljust(len(self._standing))[: max(columns - 1, 0)], self._out)
        self._standing = line

    def _is_time(self, pause: float) -> bool:
        now = time.monotonic()
        if now - self._shown_at < pause and self.done < self.steps:
            return False
        self._shown_at = now
        return True

    def _speed(self) -> list[str]:
        tokens, seconds, waited = (sum(pace[i] for pace in self._pace) for i in range(3))
        if seconds <= 0:
            return []
        speed = tokens / seconds
        share = [f"mfu {speed / self._full_speed:.0%}"] if self._full_speed else []
        return [f"{readable_count(speed)} tokens/s", *share, f"data {waited / seconds:.0%}"]

    def _time_left(self) -> str:
        seconds = sum(pace[1] for pace in self._pace)
        steps_left = self.steps - self.done
        return f"{readable_time(seconds / max(len(self._pace), 1) * steps_left)} left"


def columns_of(out: TextIO) -> int:
    """How wide a terminal is; 0 for what is none, is gone, or does not say, as under some CI."""
    with suppress(OSError, ValueError):
        if out.isatty():
            return os.get_terminal_size(out.fileno()).columns
    return 0


def fitted(parts: Sequence[str], columns: int) -> str:
    """As many of the parts, from the left, as a line of so many columns holds whole."""
    lines = (", ".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((line for line in lines if len(line) <= columns), parts[0])


def harmless(text: str, out: TextIO) -> str:
    """What a model or a stranger wrote, with control characters as symbols (`␛`) on a terminal."""
    with suppress(ValueError):  # it is closed
        return text.translate(SYMBOLS) if out.isatty() else text
    return text


def say(text: str, out: TextIO) -> None:
    """Print, `harmless`; into a pipe that nobody reads any more, nothing."""
    write(harmless(text, out) + "\n", out)


def write(text: str, out: TextIO) -> None:
    """Write a text as it is, at once; nothing where nobody reads any more."""
    with suppress(OSError, ValueError):
        print(text, end="", file=out, flush=True)


def readable_count(number: float) -> str:
    """`8.2k`, `1.5M`."""
    for unit in ("", "k", "M", "B"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def readable_time(seconds: float) -> str:
    """`0.4s`, `17s`, `3m07s`, `2h05m`."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
