"""checkpoint: what a save costs the training loop, and how long a model takes to load.

    python -m benchmarks checkpoint

A GPT-2 of 124M parameters and its AdamW state, 1.49 GB, in fp32. A loop of matrix products stands
for training: `stall` is the time that it stands still at a save, `lost` adds by how much its steps
are slower until the checkpoint is on the disk. A load ends when a value of every page has been
read, so that what is mapped into memory is really there; the files are in the page cache.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.contest import Contestant, compete
from benchmarks.shapes import SHAPES, Shape
from benchmarks.table import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this benchmark takes."""
    parser.add_argument("--shape", choices=sorted(SHAPES), default="124m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round of loads, at least")
    parser.add_argument("--folder", metavar="DIR", help="on the disk to measure (temporary files)")


def run(arguments: argparse.Namespace) -> int:
    """Measure saves, then loads; print and write what was found."""
    if arguments.smoke:
        vars(arguments).update(shape="tiny", rounds=1, seconds=0.0)
    shape = SHAPES[arguments.shape]
    report = Report("checkpoint", arguments, {"shape": vars(shape)})
    with tempfile.TemporaryDirectory(prefix="lmkit-benchmark-", dir=arguments.folder) as folder:
        _saves(shape, folder, arguments, report)
    with tempfile.TemporaryDirectory(prefix="lmkit-benchmark-", dir=arguments.folder) as folder:
        from benchmarks.states import write_files

        write_files(shape, Path(folder))
        _loads(shape, folder, arguments, report)
    return report.finish()


def _saves(shape: Shape, folder: str, arguments: argparse.Namespace, report: Report) -> None:
    entries = {
        "lmkit": "LmkitSaving",
        "torch.save": "TorchSaving",
        "torch.save, fsync, rename": "DurableTorchSaving",
    }
    contestants = [
        Contestant(name, f"benchmarks.states.{entry}", {"shape": shape, "folder": folder})
        for name, entry in entries.items()
    ]
    result = compete(contestants, rounds=arguments.rounds, seconds=0, unit="bytes")
    report.note("save", result)
    for name in entries:
        row = {f"{key} s": result.more(name, key) for key in ("stall", "lost", "total")}
        mb = result.more(name, "memory") / 1e6
        report.add(save=name, **row, **{"memory MB": mb})


def _loads(shape: Shape, folder: str, arguments: argparse.Namespace, report: Report) -> None:
    whole = {"folder": folder, "file": "whole", "mmap": False}
    ways: dict[str, dict[str, Any]] = {
        "torch.load": whole,
        "torch.load, mmap": {**whole, "mmap": True},
        "torch.load of the weights alone": {**whole, "file": "weights"},
        "torch.load, into a model": {**whole, "shape": shape},
    }
    contestants = [
        Contestant("lmkit load_model", "benchmarks.states.LmkitLoading", {"folder": folder}),
        *(Contestant(n, "benchmarks.states.TorchLoading", given) for n, given in ways.items()),
    ]
    result = compete(contestants, rounds=arguments.rounds, seconds=arguments.seconds, unit="loads")
    report.note("load", result)
    for each in contestants:
        mb = {f"{key} MB": result.more(each.name, key) / 1e6 for key in ("own", "mapped", "peak")}
        # of times, where others are of rates: 0.3 is three times as fast
        share = 1 / result.ratio(each.name, "torch.load")
        seconds = 1 / result.rate(each.name)
        report.add(load=each.name, seconds=seconds, **{"of torch.load": share}, **mb)
