"""equal_runs: two runs' folders compared bit for bit; knows not how they came about."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.checkpoints.compare import compare_tensors
from lmkit.checkpoints.contents import MODEL, OPTIMIZER, TRAINED
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.header import read_header
from lmkit.errors import CheckpointError
from lmkit.train.loading import RUN_CHECKPOINTS
from lmkit.train.metrics import FILE
from lmkit.train.metrics_file import read_metrics

# of a line of metrics.jsonl: what the clock says, which no two runs share
CLOCK = ("seconds", "waited", "evaluation_seconds", "mfu")
DATA = "data"  # the key under which a step's batch has its checksum


def _is_evaluation(key: str) -> bool:
    return key.startswith("validation_") or key == "samples"


GROUPS: dict[str, Callable[[str], bool]] = {
    "losses, norms, rates": lambda key: not _is_evaluation(key) and key not in (*CLOCK, DATA),
    "ids of all samples": lambda key: key == DATA,
    "evaluations": _is_evaluation,
}


@dataclass(frozen=True)
class Comparison:
    """One of the things that two runs should share.

    Attributes:
        what: was compared,
        amount: how much of it, in words.
        differences: one line each; none where all is equal.
    """

    what: str
    amount: str
    differences: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


def compare_runs(one: Path, other: Path) -> list[Comparison]:
    """Weights and optimizer state of the last checkpoints, and every line of the metrics.

    Raises:
        CheckpointError: one of them has no good checkpoint.
    """
    ends = _last(one), _last(other)
    files = {"weights": MODEL, "weights behind the average": TRAINED, "optimizer state": OPTIMIZER}
    found = [
        _tensors(what, file, *ends)
        for what, file in files.items()
        if any(file in end.manifest.files for end in ends)
    ]
    return [*found, *_metrics(one, other)]


def _last(run: Path) -> Checkpoint:
    checkpoint = CheckpointDir(run / RUN_CHECKPOINTS).latest()
    if checkpoint is None:
        raise CheckpointError("has no checkpoint to compare", at=run)
    return checkpoint


def _tensors(what: str, file: str, one: Checkpoint, other: Checkpoint) -> Comparison:
    differences = [f"{each.key} {each.what}" for each in compare_tensors(one, other, file)]
    if one.folder.name != other.folder.name:
        differences.insert(0, f"one is {one.folder.name}, the other {other.folder.name}")
    tensors = read_header(one.folder / file).tensors.values() if file in one.manifest.files else ()
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    return Comparison(what, f"{len(tensors)} tensors, {numbers:,} numbers", tuple(differences))


def _metrics(one: Path, other: Path) -> Iterator[Comparison]:
    """The lines of two metrics.jsonl, in three groups of keys."""
    left, right = (list(read_metrics(run / FILE)) for run in (one, other))
    for what, belongs in GROUPS.items():
        n_values, differences = 0, []
        a: dict[str, Any]
        b: dict[str, Any]
        for a, b in zip_longest(left, right, fillvalue={}):
            keys = sorted(key for key in a.keys() | b.keys() if belongs(key))
            n_values += len(keys)
            differences += [
                f"step {a.get('step', b.get('step'))}: {key} is {a.get(key)} and {b.get(key)}"
                for key in keys
                if a.get(key) != b.get(key)
            ]
        amount = f"{n_values:,} values at {len(left):,} steps"
        yield Comparison(what, amount, tuple(differences))
