"""A program for test_saves, test_kills and test_damage: saves, and whole runs, in children.

`python runs.py FOLDER`, with FOLDER/tiny.yaml, reads lines such as `kills 100` and answers each
with a JSON object. A run ends well when its weights, its optimizers' state and its metrics are
those of a run that nobody disturbed.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import saver
from forking import KILLED, in_child, share_pages

from lmkit.checkpoints import disk
from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.environment import describe_environment
from lmkit.checkpoints.manifest import MANIFEST
from lmkit.cli import main
from lmkit.errors import CheckpointError

TIMES = ("seconds", "evaluation_seconds", "waited", "mfu")
SMALL = [  # nine steps in two stages, a save after every one or two
    "stages.pretrain.steps=5", "stages.pretrain.batch_size=3", "stages.sft.steps=4",
    "stages.sft.epochs=", "stages.sft.checkpoint.every=1", "stages.pretrain.evaluate.samples=[]",
    "stages.pretrain.evaluate.tokens=32", "stages.sft.evaluate.tokens=32",
]  # fmt: skip


class Runs:
    """Runs of one experiment, each in a folder of its own; `straight` is the undisturbed one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.draw = random.Random(0)
        self.said = str(folder / "said.txt")
        self.straight = folder / "straight"
        # here, not in a child: what it imports, all children have
        self.train(self.straight)
        share_pages()
        assert in_child(lambda: self.train(folder / "second")) == 0
        self.seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        assert not self.differences(folder / "second")

    def train(self, run: Path, *words: str) -> int:
        """`lmkit train`; its exit code."""
        return main(["train", str(self.folder / "tiny.yaml"), f"out={run}", *SMALL, *words])

    def differences(self, run: Path) -> list[str]:
        """What is other than in the straight run."""
        found = [] if metrics(run) == metrics(self.straight) else ["metrics.jsonl"]
        one, other = (sorted((each / "checkpoints").iterdir()) for each in (run, self.straight))
        for file in ("model.safetensors", "optimizer.safetensors"):
            if (one[-1] / file).read_bytes() != (other[-1] / file).read_bytes():
                found.append(file)
        return found


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def good(run: Path) -> list[str]:
    """The names of the checkpoints that are as they were written, oldest first."""
    names = []
    for entry in CheckpointDir(run / "checkpoints").entries():
        try:
            entry.check()
            names.append(entry.name)
        except CheckpointError:
            continue
    return names


def kills(runs: Runs, n_kills: int) -> dict[str, Any]:
    """Kill runs at random moments until N kills hit; each goes on with the same command line."""
    killed = finished = lost = resuming = 0
    stages: dict[str, int] = {}
    wrong = []
    while killed < n_kills:
        run, before, size = runs.folder / f"run-{finished}", [], -1
        while True:
            code = in_child(
                lambda: runs.train(run),  # noqa: B023
                lifetime=runs.draw.uniform(0, 0.8) * runs.seconds,
                output=runs.said,
            )
            if code != KILLED:
                break
            killed += 1
            now = good(run)
            lost += bool(before) and (not now or now[-1] < before[-1])
            lines = metrics(run)[-1:] if written(run) > 0 else []
            resuming += bool(before) and written(run) == size  # it had not made a step yet
            stage = lines[0]["stage"] if lines else "before the first step"
            stages[stage] = stages.get(stage, 0) + 1
            before, size = now, written(run)
        finished += 1
        if code or (differences := runs.differences(run)):
            wrong.append([code, Path(runs.said).read_text() if code else differences])
        shutil.rmtree(run)
    return {
        "killed": killed, "finished": finished, "lost": lost, "while resuming": resuming,
        "stages": stages, "wrong": wrong,
    }  # fmt: skip


def written(run: Path) -> int:
    """Bytes of whole lines in metrics.jsonl."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return 0
    content = path.read_bytes()
    os.truncate(path, content.rfind(b"\n") + 1)
    return path.stat().st_size


def damage(runs: Runs, n_trials: int) -> dict[str, Any]:
    """The newest checkpoint of a finished run is damaged: the same command goes back to the one
    before, says so, and ends as before."""
    kinds: dict[str, Callable[[Path], object]] = {
        "flipped": lambda path: flip(path, runs.draw),
        "cut": lambda path: os.truncate(path, runs.draw.randrange(path.stat().st_size)),
        "empty": lambda path: os.truncate(path, 0),
        "gone": lambda path: path.unlink(),
    }
    wrong: list[Any] = []
    tried: dict[str, int] = dict.fromkeys(kinds, 0)
    for trial in range(n_trials):
        run = runs.folder / "damaged"
        shutil.copytree(runs.straight, run)
        newest = CheckpointDir(run / "checkpoints").entries()[-1]
        path = runs.draw.choice(files_of(newest.folder))
        kind = list(kinds)[trial % len(kinds)]
        kinds[kind](path)
        tried[kind] += 1
        code = in_child(lambda: runs.train(run), output=runs.said)  # noqa: B023
        said = Path(runs.said).read_text()
        # a manifest that says something else of a file makes that one altered
        names_it = newest.name in said and (path.name in said or path.name == MANIFEST)
        if code or "going back to" not in said or not names_it or runs.differences(run):
            wrong.append([kind, path.name, code, said])
        shutil.rmtree(run)
    return {"tried": tried, "wrong": wrong}


def flips(runs: Runs, n_trials: int) -> dict[str, Any]:
    """A single bit of any file of a checkpoint flips; who reads it notices."""
    newest = CheckpointDir(runs.straight / "checkpoints").entries()[-1].folder
    unnoticed = []
    for _ in range(n_trials):
        path = runs.draw.choice(files_of(newest))
        before = path.read_bytes()
        flip(path, runs.draw)
        try:
            Checkpoint(newest).check()
            unnoticed.append(path.name)
        except CheckpointError:
            pass
        path.write_bytes(before)
    Checkpoint(newest).check()
    return {"flips": n_trials, "unnoticed": unnoticed}


def files_of(folder: Path) -> list[Path]:
    """All files of a checkpoint."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, draw: random.Random) -> None:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content) * 8)
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(content)


def faults(runs: Runs, n_trials: int) -> dict[str, Any]:
    """A call of a save fails in the midst of a run: exit code 74 and one line, or a kill; then the
    same command ends the run as if nothing had been."""
    wrong: list[Any] = []
    tried = 0
    kinds = itertools.cycle(("kill", "enospc", "eio"))  # 7 calls, 3 kinds: all pairs in 21
    for call, kind, _ in zip(itertools.cycle(disk.SAVE), kinds, range(n_trials)):  # noqa: B905
        run = runs.folder / "refused"
        fault = f"{call}:{runs.draw.randint(1, 5)}:{kind}"

        def refused(run: Path = run, fault: str = fault) -> int:
            os.environ[disk.VARIABLE] = fault
            return runs.train(run)

        code = in_child(refused, output=runs.said)
        said = Path(runs.said).read_text()
        # to delete an old one is not worth a run: a warning says so
        expected = [KILLED] if kind == "kill" else [74, 0]
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        fine = code in expected and len(lines) == (code == 74) and "Traceback" not in said
        tried += f"{disk.VARIABLE}: {call}" in said
        again = in_child(lambda: runs.train(run), output=runs.said)  # noqa: B023
        if not fine or again or runs.differences(run):
            wrong.append([fault, code, said, again, Path(runs.said).read_text()])
        shutil.rmtree(run)
    return {"tried": tried, "wrong": wrong}


def machines(runs: Runs, n_moves: int) -> dict[str, Any]:
    """The machine is lost at a random moment, its disk with it; another goes on from the copies."""
    moved, wrong = 0, []
    words = [f"copy_to={runs.folder / 'copies'}"]
    while moved < n_moves:
        run = runs.folder / "moving"
        while True:
            lifetime = runs.draw.uniform(0.4, 1.5) * runs.seconds
            code = in_child(lambda: runs.train(run, *words), lifetime, runs.said)  # noqa: B023
            if code != KILLED:
                break
            moved += 1
            shutil.rmtree(run, ignore_errors=True)
        if code or (differences := runs.differences(run)):
            wrong.append([code, Path(runs.said).read_text() if code else differences])
        elif good(runs.folder / "copies" / "moving")[-1:] != good(run)[-1:]:
            wrong.append(["not copied", good(runs.folder / "copies" / "moving"), good(run)])
        shutil.rmtree(run)
        shutil.rmtree(runs.folder / "copies")
    return {"moved": moved, "wrong": wrong}


def saves_killed(runs: Runs, n_kills: int) -> dict[str, Any]:
    """`saver.kills`, without a run around it."""
    return saver.kills(runs.folder / "saves", n_kills)


def saves_refused(runs: Runs, whole: int) -> dict[str, Any]:
    """`saver.faults`, without a run around it."""
    return saver.faults(runs.folder / "faults", bool(whole))


def copies_killed(runs: Runs, whole: int) -> dict[str, Any]:
    """`saver.copies`, without a run around it."""
    return saver.copies(runs.folder / "copying", bool(whole))


if __name__ == "__main__":
    describe_environment()  # asks git once, for all children
    programs = {
        each.__name__: each
        for each in (
            kills,
            damage,
            flips,
            faults,
            machines,
            saves_killed,
            saves_refused,
            copies_killed,
        )
    }
    answers, sys.stdout = sys.stdout, sys.stderr  # the straight run talks
    runs = Runs(Path(sys.argv[1]))
    for line in sys.stdin:
        what, number = line.split()
        print(json.dumps(programs[what](runs, int(number))), file=answers, flush=True)
