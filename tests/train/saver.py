"""A process for test_checkpoint_faults: saves checkpoints in children that are killed or refused.

Run as `python saver.py kills FOLDER N` or `python saver.py faults FOLDER`; prints one JSON object.
torch is imported once and every trial is a fork, so a trial takes milliseconds.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lmkit.checkpoints.checkpoint import CheckpointContents, CheckpointDir
from lmkit.checkpoints.environment import describe_environment
from lmkit.checkpoints.saver import Saver
from lmkit.errors import CheckpointError, StorageError
from lmkit.text import Byte
from lmkit_models.mlp import MLP

MODEL = MLP(tokenizer=Byte(), embedding_dim=2, window=1, nodes=2, layers=1, max_len=8)


def open_saver(folder: Path) -> Saver:
    """As a run has it: it writes in a thread."""
    return Saver(CheckpointDir(folder), torch.device("cpu"))


def save(saver: Saver, step: int) -> None:
    """A checkpoint whose weights and state tell its step; the weights are altered meanwhile."""
    with torch.no_grad():
        for parameter in MODEL.parameters():
            parameter.fill_(step)
        saver.save(CheckpointContents(MODEL, state={"step": step}, step=step, stage="a"))
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


def in_child(work: Callable[[], None], lifetime: float | None = None) -> int:
    """Fork, work there, kill the child after `lifetime` seconds; its exit code, or -signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except StorageError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    if lifetime is not None:
        time.sleep(lifetime)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kills(folder: Path, count: int) -> dict[str, Any]:
    """Kill a saving process `count` times; each goes on from what the one before left."""
    CheckpointDir(folder).prepare()
    draw = random.Random(0)
    latest, lost, leftovers = 0, 0, 0
    started = time.perf_counter()
    with open_saver(folder) as saver:
        for step in (1, 2, 3):
            save(saver, step)
    one_save = (time.perf_counter() - started) / 3

    def save_on() -> None:
        directory = CheckpointDir(folder)
        directory.prepare()
        newest = directory.latest()
        assert newest is not None
        with open_saver(folder) as saver:
            for step in range(newest.step + 1, 10**6):
                save(saver, step)

    for _ in range(count):
        in_child(save_on, lifetime=draw.uniform(0, 6) * one_save)
        leftovers += any(name.startswith(".") for name in os.listdir(folder))
        steps = good_steps(folder)
        lost += len(steps) < 2 or steps[-1] < latest
        latest = steps[-1]
    return {"latest": latest, "lost": lost, "leftovers": leftovers}


class Fault:
    """Counts what the process does to the files below a folder and lets the n-th not happen."""

    def __init__(self, folder: Path, at: int, kind: str) -> None:
        self.folder, self.at, self.kind, self.count = str(folder), at, kind, 0
        self.happened = False
        self._fsync, self._write = os.fsync, os.write
        os.fsync = self.fsync  # these two raise no audit event
        os.write = self.write
        sys.addaudithook(self.audit)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        touched = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod")
        if event == "open" and isinstance(arguments[2], int):
            touched = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        # rmtree names its files relative to a folder it holds open
        if touched and (self.folder in str(arguments[0]) or event in ("os.remove", "os.rmdir")):
            self.strike()

    def fsync(self, handle: int) -> None:
        self.strike()
        self._fsync(handle)

    def write(self, handle: int, data: memoryview) -> int:
        half = len(data) // 2
        written = self._write(handle, data[:half])
        self.strike()
        return written + self._write(handle, data[half:])

    def strike(self) -> None:
        self.count += 1
        if self.count != self.at:
            return
        self.happened = True
        if self.kind == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.kind)
        raise OSError(number, os.strerror(number))


def faults(folder: Path) -> dict[str, Any]:
    """Every touching call of a save and prune fails once, in two or three ways."""
    template = folder / "template"
    CheckpointDir(template).prepare()
    with open_saver(template) as saver:
        for step in (1, 2):
            save(saver, step)
    tried, wrong = 0, []
    for step, after in ((3, [2, 3]), (2, [1, 2])):  # a new one, and one that replaces
        for kind in ("KILL", "ENOSPC", "EIO")[:step]:
            for at in range(1, 1000):
                place = folder / f"{step}-{kind}-{at}"
                shutil.copytree(template, place)
                code, happened = try_fault(place, step, at, kind)
                if not happened:
                    assert code == 0, code
                    break
                tried += 1
                CheckpointDir(place).prepare()
                steps = good_steps(place)
                fine = code in (-signal.SIGKILL, 74, 0) and len(steps) >= 2 and max(steps) >= 2
                if not fine or any(name.startswith(".") for name in os.listdir(place)):
                    wrong.append([step, kind, at, code, steps, os.listdir(place)])
                shutil.rmtree(place)
            assert good_steps(place)[-2:] == after
    return {"tried": tried, "wrong": wrong}


def try_fault(place: Path, step: int, at: int, kind: str) -> tuple[int, bool]:
    """The child's exit code, and whether it got as far as the fault."""
    read, write = os.pipe()

    def work() -> None:
        tell = os.write
        fault = Fault(place, at, kind)
        try:
            with open_saver(place) as saver:
                save(saver, step)
        finally:
            if fault.happened:
                tell(write, b"!")

    code = in_child(work)
    os.close(write)
    happened = code == -signal.SIGKILL or os.read(read, 1) == b"!"
    os.close(read)
    return code, happened


if __name__ == "__main__":
    logging.disable()  # what is cleaned and passed over is no news here
    describe_environment()  # asks git once, for all children
    what, where = sys.argv[1], Path(sys.argv[2])
    result = kills(where, int(sys.argv[3])) if what == "kills" else faults(where)
    print(json.dumps(result))
