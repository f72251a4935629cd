"""bar: how far a download or a tokenising is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

DELAY = 0.5  # seconds; what is small is done before a bar can be read
LINE_EVERY = 10.0  # seconds between two lines


class _Lines:
    """Takes tqdm's states, each meant to be written over the one before, as lines of a log."""

    def write(self, text: str) -> None:
        if state := text.strip():
            print(state, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Each line is out already."""


def progress_bar(
    doing: str, total: int | None, unit: str, *, begun: int = 0, shown: bool = True
) -> tqdm[Any]:
    """A bar on stderr; closed or left as a `with` block, its last state stays there.

    Args:
        total: units to be done; None: who knows.
        begun: units that an earlier start did.
        shown: False: the bar only counts.
    """
    of_terminal = sys.stderr.isatty()
    return tqdm(
        desc=doing,
        total=total,
        initial=begun,
        unit=unit,
        unit_scale=True,
        file=sys.stderr if of_terminal else _Lines(),
        mininterval=0.1 if of_terminal else LINE_EVERY,
        disable=not shown,
        delay=DELAY,
    )
