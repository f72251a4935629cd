"""display: the line a run shows while it goes: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import suppress
from typing import TextIO

LINE_EVERY = 10.0  # seconds between two lines where the output is no terminal
WINDOW = 20  # steps that speed and waiting are averaged over


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
        self._bar = None
        if self._out.isatty():
            from tqdm import tqdm  # 30 ms

            self._bar = tqdm(
                total=steps, initial=done, desc=stage, unit="step", file=self._out,
                bar_format="{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} "
                "[{elapsed}<{remaining}{postfix}]",
            )  # fmt: skip

    def pace(self, tokens: int, seconds: float, waited: float) -> None:
        """Count a step that was just made, whose loss is not known yet."""
        self._pace.append((tokens, seconds, waited))
        self.done += 1

    def show(
        self, loss: float | None, bits_per_byte: float | None, reward: float | None = None
    ) -> None:
        """Show how far the stage is, and what was last measured; of answers their reward."""
        if reward is not None:
            parts = [f"reward {reward:.3f}"]
        else:
            parts = [f"loss {loss:.4f}" if loss is not None else "loss not finite"]
            parts += [f"{bits_per_byte:.4f} bits/byte"] if bits_per_byte is not None else []
        parts += self._speed()
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
            self._bar.update(self.done - self._bar.n)
        elif self._is_time():
            share = f"{self.stage} {self.done}/{self.steps}"
            say(f"{share}: {', '.join([*parts, self._time_left()])}", self._out)

    def say(self, text: str) -> None:
        """Print a text above the line."""
        if self._bar is not None:
            self._bar.clear()
        say(text, self._out)

    def close(self) -> None:
        """Leave the last state of the line standing."""
        if self._bar is not None:
            self._bar.close()

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._shown_at < LINE_EVERY and self.done < self.steps:
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


def say(text: str, out: TextIO) -> None:
    """Print; into a pipe that nobody reads any more, nothing."""
    with suppress(OSError, ValueError):
        print(text, file=out, flush=True)


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
