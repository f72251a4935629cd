"""Saves checkpoints in children that are killed or refused; a part of runs.py.

`python saver.py FOLDER` saves three, for whoever looks on.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import forking  # as a user's module it is kept in each checkpoint's code/
import torch
from forking import KILLED, in_child

from lmkit.checkpoints import disk
from lmkit.checkpoints.contents import CheckpointContents
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.manifest import MANIFEST
from lmkit.checkpoints.saver import Saver
from lmkit.checkpoints.second_place import SecondPlace
from lmkit.errors import CheckpointError, LMKitError
from lmkit.optim import OptimizerSet
from lmkit.text import Byte
from lmkit_models.mlp import MLP

MODEL = MLP(tokenizer=Byte(), embedding_dim=2, window=1, nodes=2, layers=1, max_len=8)
OPTIMIZERS = OptimizerSet.build(
    {"all": list(MODEL.named_parameters())}, [{"class": "torch.optim.SGD", "lr": 0.1}]
)
EXPERIMENT = {"imports": [forking.__name__]}
KINDS = ("kill", "enospc", "eio")
REPLACING = ("save.rename", "save.unlink", "save.rmdir")
STRUCK = 10  # exit code of a child that met its fault and went on


def open_saver(folder: Path) -> Saver:
    """As a run has it: it writes in a thread."""
    return Saver(CheckpointDir(folder), torch.device("cpu"))


def save(saver: Saver, step: int) -> None:
    """A checkpoint whose weights and state tell its step; the weights are altered meanwhile."""
    contents = CheckpointContents(
        MODEL, OPTIMIZERS, state={"step": step}, experiment=EXPERIMENT, step=step, stage="a"
    )
    with torch.no_grad():
        for parameter in MODEL.parameters():
            parameter.fill_(step)
        saver.save(contents)
        for parameter in MODEL.parameters():
            parameter.fill_(-1)


def good_steps(folder: Path) -> list[int]:
    """The steps of all checkpoints that are whole in every way, oldest first."""
    steps = []
    for entry in CheckpointDir(folder).entries():
        try:
            entry.check()
        except CheckpointError:
            continue
        entry.load_weights(MODEL)
        assert all(bool((p == entry.step).all()) for p in MODEL.parameters())
        assert entry.state == {"step": entry.step}
        steps.append(entry.step)
    return steps


def kills(folder: Path, n_kills: int) -> dict[str, Any]:
    """Kill a saving process again and again; each goes on from what the one before left."""
    CheckpointDir(folder).prepare()
    draw = random.Random(0)
    latest, lost, leftovers = 0, 0, 0
    started = time.process_time()
    with open_saver(folder) as saver:
        for step in (1, 2, 3):
            save(saver, step)
    one_save = (time.process_time() - started) / 3

    def save_on() -> int:
        directory = CheckpointDir(folder)
        directory.prepare()
        newest = directory.latest()
        assert newest is not None
        with open_saver(folder) as saver:
            for step in range(newest.step + 1, 10**6):
                save(saver, step)
        return 0

    for _ in range(n_kills):
        in_child(save_on, lifetime=draw.uniform(0, 6) * one_save)
        leftovers += any(name.startswith(".") for name in os.listdir(folder))
        steps = good_steps(folder)
        lost += len(steps) < 2 or steps[-1] < latest
        latest = steps[-1]
    return {"latest": latest, "lost": lost, "leftovers": leftovers}


def faults(folder: Path, whole: bool) -> dict[str, Any]:
    """Every touching call of a new checkpoint fails once, in three ways; of one that replaces
    another, and of the cleaning after a kill, those calls that a new one has not, or `whole`."""
    template = folder / "template"
    CheckpointDir(template).prepare()
    with open_saver(template) as saver:
        for step in (1, 2):
            save(saver, step)
    tried = dict.fromkeys(disk.SAVE, 0)
    wrong = []
    works = {"new": new, "replaced": replaced, "cleaned": cleaned}
    for what, call, kind in itertools.product(works, disk.SAVE, KINDS):
        if what != "new" and not whole and (kind != "kill" or call not in REPLACING):
            continue
        for at in itertools.count(1):
            place = folder / "trial"
            shutil.copytree(template, place)
            leave_behind(place, what)
            trial = partial(struck, works[what], place, f"{call}:{at}:{kind}")
            code = in_child(trial) if kind == "kill" else trial()
            CheckpointDir(place).prepare()
            steps, names = good_steps(place), os.listdir(place)
            fine = steps in ([1, 2], [2, 3], [1, 2, 3])
            if not fine or any(name.startswith(".") for name in names):
                wrong.append([what, call, kind, at, code, steps, names])
            shutil.rmtree(place)
            if code == 0:  # there is no such call any more
                assert steps == ([2, 3] if what == "new" else [1, 2])
                break
            assert code in ([KILLED] if kind == "kill" else [STRUCK, 74])
            tried[call] += 1
    return {"tried": tried, "wrong": wrong}


def new(place: Path) -> None:
    with open_saver(place) as saver:
        save(saver, 3)


def replaced(place: Path) -> None:
    with open_saver(place) as saver:
        save(saver, 2)


def cleaned(place: Path) -> None:
    CheckpointDir(place).prepare()


def leave_behind(place: Path, what: str) -> None:
    """What kills leave: one replaced and not yet in place, one half deleted, one half written."""
    if what == "cleaned":
        (place / "00000002-a").rename(place / ".old-00000002-a")
        shutil.copytree(place / "00000001-a", place / ".old-00000001-a")
        for name in (".del-00000000-a", ".tmp-00000003-a"):
            (place / name).mkdir()
            (place / name / "model.safetensors").write_bytes(b"half")


def struck(work: Callable[[Path], None], place: Path, fault: str) -> int:
    """Do it with a fault; the exit code: 0 where the fault was never met."""
    disk._fault.cache_clear()
    os.environ[disk.VARIABLE] = fault
    code = 0
    try:
        work(place)
    except LMKitError as error:
        code = error.exit_code
    finally:
        del os.environ[disk.VARIABLE]
    met = disk._fault(fault)
    return code or (STRUCK if met.seen >= met.at else 0)


def copies(folder: Path, whole: bool) -> dict[str, Any]:
    """A process is killed at each call by which a copy touches the second place, at every fourth
    or the `whole`; the next process puts it right."""
    tried, wrong = 0, []
    for call in disk.COPY if whole else ("copy.write", "copy.unlink"):
        for at in itertools.count(1, 1 if whole else 4):
            code = in_child(partial(struck, copy_three, folder, f"{call}:{at}:kill"))
            for entry in CheckpointDir(folder / "second" / "checkpoints").entries():
                if (entry.folder / MANIFEST).exists():
                    entry.check()  # whole, or not there
            copy_three(folder)
            second = folder / "second"
            steps, names = good_steps(second / "checkpoints"), os.listdir(second)
            if steps != [2, 3] or names != ["checkpoints"]:
                wrong.append([call, at, code, steps, names])
            shutil.rmtree(folder)
            if code == 0:
                break
            assert code == KILLED
            tried += 1
    return {"tried": tried, "wrong": wrong}


def copy_three(folder: Path) -> None:
    """Saves with a second place; of three the first is deleted in both."""
    place = SecondPlace(str(folder / "second"))
    directory = CheckpointDir(folder / "first", copies=place)
    directory.prepare()
    with Saver(directory, torch.device("cpu")) as saver:
        for step in (1, 2, 3):
            save(saver, step)
            saver.wait()
            place.wait()


def once(folder: Path) -> None:
    """Three saves, of which the last deletes the first."""
    with open_saver(folder) as saver:
        for step in (1, 2, 3):
            save(saver, step)


if __name__ == "__main__":
    once(Path(sys.argv[1]))
