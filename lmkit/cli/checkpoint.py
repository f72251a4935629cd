"""lmkit checkpoint: list a run's checkpoints, verify, prune, compare two of them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lmkit.cli.actions import add_actions
from lmkit.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from lmkit.checkpoints.checkpoint import Checkpoint
    from lmkit.checkpoints.directory import CheckpointDir

AGES = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
SHOWN = 30  # differences a file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the four actions and what they take."""
    add_actions(parser, ACTIONS)


def run(arguments: argparse.Namespace) -> int:
    """Do the action; 1 where two checkpoints differ."""
    return arguments.work(arguments)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run's folder, such as runs/NAME, or a copy of it")


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--copies", action="store_true", help="ask the run's second place which of them it has"
    )


def _add_prune(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--keep", type=int, metavar="N", help="of the latest; by default what the run says"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")


def _add_diff(parser: argparse.ArgumentParser) -> None:
    for name in ("one", "other"):
        parser.add_argument(name, type=Path, help="a checkpoint, or a run: its newest good one")


# --- list -------------------------------------------------------------------------------------


def show(arguments: argparse.Namespace) -> int:
    """A line a checkpoint: its size, its age, why it stays, what was measured, whether it is whole.

    Sizes are compared, hashes are not: `verify` reads all.
    """
    directory = _open(arguments.run)
    whole = [entry for entry in directory.entries() if entry.is_whole()]
    kept = directory.rules.staying(whole)
    lines = [["checkpoint", "size", "age", "stays as", "measured", "files"]]
    lines += [_line(entry, kept.get(entry.name, [])) for entry in directory.entries()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (word.ljust(width) for word, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
    for path in sorted(directory.folder.glob(".*-*")):
        print(f"{path.name} is left over from a process that was killed: `lmkit train` clears it")
    experiment = whole[-1].experiment if whole else {}
    if copy_to := str(experiment.get("copy_to") or ""):
        print(_copies(whole, Path(str(experiment.get("out"))), copy_to, arguments.copies))
    return 0


def _copies(entries: Sequence[Checkpoint], run: Path, copy_to: str, asked: bool) -> str:
    """Where copies of a run's checkpoints are, and which are not there; StorageError where that
    place does not answer. It is not opened unasked: a checkpoint may be a stranger's."""
    from lmkit.checkpoints.second_place import SecondPlace

    copies = SecondPlace.of_run(run, copy_to)
    if not asked:
        return f"copies are in {copies.place.url}: --copies asks whether all of them are"
    missing = copies.missing([entry.folder for entry in entries])
    if missing:
        return (
            f"not in {copies.place.url}: {', '.join(missing)}; `lmkit train` copies what it keeps"
        )
    return f"all whole ones are in {copies.place.url}"


def _line(entry: Checkpoint, reasons: Sequence[str]) -> list[str]:
    from lmkit.checkpoints.durable import readable

    try:
        entry.manifest.check(hashes=False)
        size = readable(sum(record.size for record in entry.manifest.files.values()))
        measured = {name: value for name, value in entry.metrics.items() if value is not None}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
        age = _age(time.time() - (entry.folder / "manifest.json").stat().st_mtime)
        return [entry.name, size, age, ", ".join(reasons) or "-", shown or "-", "whole"]
    except CheckpointError as error:
        return [entry.name, "-", "-", "-", "-", f"bad: {error.what}"]


def _age(seconds: float) -> str:
    """`3 h`; of the largest unit that fits once."""
    unit, length = next((pair for pair in AGES if seconds >= pair[1]), AGES[-1])
    return f"{max(0, int(seconds // length))} {unit}"


# --- verify -----------------------------------------------------------------------------------


def verify(arguments: argparse.Namespace) -> int:
    """Compare every byte with the manifest's sha256; CheckpointError where one is bad."""
    from lmkit.checkpoints.checkpoint import Checkpoint
    from lmkit.checkpoints.manifest import MANIFEST

    alone = (arguments.run / MANIFEST).exists()
    entries = [Checkpoint(arguments.run)] if alone else _open(arguments.run).entries()
    n_bad = 0
    for entry in entries:
        try:
            entry.check()
            print(f"{entry.name}: good, {len(entry.manifest.files)} files")
        except CheckpointError as error:
            n_bad += 1
            print(f"{entry.name}: {error.what}")
    if n_bad:
        raise CheckpointError(
            f"{n_bad} of {len(entries)} checkpoints are bad",
            hint="a run goes on from its newest good one",
            at=arguments.run,
        )
    return 0


# --- prune ------------------------------------------------------------------------------------


def prune(arguments: argparse.Namespace) -> int:
    """Delete what the run itself would not keep; not while it is running."""
    from lmkit.train.lock import run_lock

    directory = _open(arguments.run)
    if arguments.keep is not None:
        if arguments.keep < 2:
            hint = "2 or more: the newest may be damaged"
            raise ConfigError(f"{arguments.keep} is too few", hint=hint, at="--keep")
        directory.rules.keep = arguments.keep
    with nullcontext() if arguments.dry_run else run_lock(arguments.run):
        gone = directory.prune(dry=arguments.dry_run)
    for entry in gone:
        print(f"{entry.name} {'would go' if arguments.dry_run else 'is deleted'}")
    print(f"{len(directory.entries()) - (len(gone) if arguments.dry_run else 0)} stay")
    return 0


# --- diff -------------------------------------------------------------------------------------


def diff(arguments: argparse.Namespace) -> int:
    """A line for each tensor and each key that differs; 0 where none does, else 1."""
    from lmkit.checkpoints.compare import compare
    from lmkit.train.loading import find_checkpoint

    one, other = find_checkpoint(arguments.one), find_checkpoint(arguments.other)
    print(f"first:  {one.folder}\nsecond: {other.folder}")
    counts: dict[str, int] = {}
    for difference in compare(one, other):
        counts[difference.file] = counts.get(difference.file, 0) + 1
        if counts[difference.file] <= SHOWN:
            print(f"{difference.file}: {difference.key}: {difference.what}")
    for file, n_found in counts.items():
        print(f"{file}: {n_found} differ" + (f", {SHOWN} are shown" if n_found > SHOWN else ""))
    if not counts:
        print("they are the same")
    return 1 if counts else 0


# ----------------------------------------------------------------------------------------------


def _open(run: Path) -> CheckpointDir:
    """The checkpoints of a run with the rules it keeps them by.

    Raises:
        CheckpointError: there is none.
    """
    from lmkit.checkpoints.directory import CheckpointDir
    from lmkit.train.loading import RUN_CHECKPOINTS

    folder = run / RUN_CHECKPOINTS
    directory = CheckpointDir(folder if folder.is_dir() else run)
    entries = [entry for entry in directory.entries() if entry.is_whole()]
    if not directory.entries():
        what = "no checkpoint is here" if run.is_dir() else "there is no such folder"
        raise CheckpointError(what, hint="give a run's folder, such as runs/NAME", at=run)
    if entries:
        stages = entries[-1].experiment.get("stages", ())
        wishes = {stage["name"]: stage["checkpoint"] for stage in stages}
        best = {name: wish.get("best") for name, wish in wishes.items()}
        keep = wishes.get(entries[-1].stage, {}).get("keep", 2)
        return CheckpointDir(directory.folder, keep, best)
    return directory


ACTIONS = {
    "list": (_add_list, show, "show a run's checkpoints, and why each stays"),
    "verify": (_add_run, verify, "read a run's checkpoints, or one, and compare every sha256"),
    "prune": (_add_prune, prune, "delete the checkpoints that the run's own rules do not keep"),
    "diff": (_add_diff, diff, "compare two checkpoints: weights, optimizers, state, experiment"),
}
