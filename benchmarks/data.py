"""data: batches a second from tokens on the disk, lmkit's stream against plain indexing.

    python -m benchmarks data

Rows of Python's standard library. lmkit's stream gives whole rows: packed documents, their targets,
weights and counts, every token once an epoch, and it knows where it stands. The other contestant is
what a loop written by hand does, as nanoGPT's does: it maps the file, takes stretches at random
places and stacks them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.contest import Contestant, compete
from benchmarks.repeated import Repeated
from benchmarks.table import Report

SETTINGS = {"rows of 256, batch 16": (256, 16), "rows of 1024, batch 32": (1024, 32)}
SMOKE = {"rows of 32, batch 4": (32, 4)}
SMOKE_TEXTS = ["a little text, again and again " * 50] * 40
TOKENIZER = "python4k"


class Stream(Repeated):
    """lmkit's batches.

    Args:
        cache: where the tokens are, or will be.
        texts: None for Python's standard library.
        width: positions of a row.
        rows: of a batch.
        ahead: make the next batch in a thread, as training does.
    """

    def __init__(
        self, cache: str, texts: list[str] | None, width: int, rows: int, ahead: bool
    ) -> None:
        from lmkit.data import BatchStream, open_rows
        from lmkit.text import Tiktoken

        store = _store(cache, texts)
        opened = open_rows(store, width=width, seed=1337, tokenizer=Tiktoken(TOKENIZER))
        self._stream = BatchStream(opened, rows_per_batch=rows, prefetch=ahead)
        self.work()  # packs the first block of rows

    def work(self) -> float:
        """A batch."""
        next(self._stream)
        return 1


class Mapped(Repeated):
    """Stretches of a file of tokens from random places, stacked.

    Args:
        cache: where lmkit's tokens are, or will be.
        texts: None for Python's standard library.
    """

    def __init__(self, cache: str, texts: list[str] | None, width: int, rows: int) -> None:
        self._file = _store(cache, texts).folder / "tokens.bin"
        self._width, self._rows = width, rows
        self.work()  # imports

    def work(self) -> float:
        """Inputs and targets."""
        import numpy as np
        import torch

        tokens = np.memmap(self._file, dtype=np.uint16, mode="r")
        starts = torch.randint(len(tokens) - self._width - 1, (self._rows,)).tolist()
        stretches = [tokens[at : at + self._width + 1].astype(np.int64) for at in starts]
        torch.stack([torch.from_numpy(stretch[:-1]) for stretch in stretches])
        torch.stack([torch.from_numpy(stretch[1:]) for stretch in stretches])
        return 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this benchmark takes."""
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round, at least")


def run(arguments: argparse.Namespace) -> int:
    """Measure each setting; print and write what was found."""
    if arguments.smoke:
        vars(arguments).update(rounds=1, seconds=0.01)
    settings = SMOKE if arguments.smoke else SETTINGS
    report = Report("data", arguments, settings)
    with tempfile.TemporaryDirectory(prefix="lmkit-benchmark-") as cache:
        for name, (width, rows) in settings.items():
            _race(name, width, rows, cache, arguments, report)
    return report.finish()


def _race(
    name: str, width: int, rows: int, cache: str, arguments: argparse.Namespace, report: Report
) -> None:
    texts = SMOKE_TEXTS if arguments.smoke else None
    common = {"cache": cache, "texts": texts, "width": width, "rows": rows}
    contestants = [
        Contestant("plain indexing", "benchmarks.data.Mapped", common),
        Contestant("lmkit, one batch ahead", "benchmarks.data.Stream", common | {"ahead": True}),
        Contestant("lmkit, when asked", "benchmarks.data.Stream", common | {"ahead": False}),
    ]
    result = compete(
        contestants, rounds=arguments.rounds, seconds=arguments.seconds, unit="batches"
    )
    report.note(name, result)
    for each in contestants:
        report.add(
            setting=name,
            contestant=each.name,
            **{"batches/s": result.rate(each.name)},
            **{"tokens/s": result.rate(each.name) * width * rows},
            **{"x plain": result.ratio(each.name, "plain indexing")},
        )


def _store(cache: str, texts: list[str] | None) -> Any:
    """The tokens on the disk; who comes first makes them."""
    from lmkit.data import InMemory, prepare
    from lmkit.data.corpora import PythonStdlib
    from lmkit.text import Tiktoken

    source = PythonStdlib() if texts is None else InMemory(texts)
    tokenizer = Tiktoken(TOKENIZER)
    return prepare(source, tokenizer, "all", max_len=1, cache=Path(cache), progress=False)
