"""states: a model and its optimizer's state, saved and loaded lmkit's way and torch's, as Entries;
compares nothing."""

from __future__ import annotations

import gc
import os
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.contest import Measure
from benchmarks.memory import reset_peak, resident
from benchmarks.shapes import Shape, gpt2
from lmkit.checkpoints.contents import CheckpointContents
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.saver import Saver
from lmkit.model import LMBase
from lmkit.optim import OptimizerSet
from lmkit.text import Tiktoken
from lmkit.train.loading import build_model, load_model
from lmkit.train.parameters import named_groups

ADAMW = {"class": "lmkit.optim.AdamW", "lr": 1e-4}
STEP_SIZE = 768  # of the square matrices: a step takes some 0.01 s
STEPS = 5  # timed before a save
PAGE = 4096
FILES = {"whole": "checkpoint.pt", "weights": "weights.pt"}


class Saving(ABC):
    """An Entry: a training loop and one save a round; `amount` is bytes, `seconds` go on until they
    are on the disk. `more`: `stall`, `lost` and `total` in seconds, `memory` in bytes, at the
    highest.

    Args:
        folder: where to save.
    """

    def __init__(self, shape: Shape, folder: str) -> None:
        self.folder = Path(folder, type(self).__name__)
        self.folder.mkdir()
        self.model = make_model(shape)
        self.optimizers = make_optimizers(self.model)
        self._square = torch.randn(STEP_SIZE, STEP_SIZE)
        self._before = resident("VmRSS")
        self.save()
        while not self.is_done():
            time.sleep(0.01)

    @abstractmethod
    def save(self) -> None:
        """Begin to save, and as much of it as training has to wait for."""

    def is_done(self) -> bool:
        """Whether the checkpoint is on the disk."""
        return True

    def round(self, seconds: float) -> Measure:
        """A save, whatever `seconds` are."""
        step = statistics.median(self._step() for _ in range(STEPS))
        reset_peak()
        started = time.perf_counter()
        self.save()
        stalled = time.perf_counter()
        steps = 0
        while not self.is_done():
            self._step()
            steps += 1
        passed = time.perf_counter() - started
        stall = stalled - started
        more = {"stall": stall, "lost": max(stall, passed - steps * step), "total": passed}
        more["memory"] = resident("VmHWM") - self._before
        return Measure(state_bytes(self.model, self.optimizers), passed, more)

    def _step(self) -> float:
        """Seconds of a step."""
        started = time.perf_counter()
        torch.mm(self._square, self._square)
        return time.perf_counter() - started


class LmkitSaving(Saving):
    """lmkit's checkpoints, of which two are kept."""

    _number = 0

    @cached_property
    def _saver(self) -> Saver:
        directory = CheckpointDir(self.folder)
        directory.prepare()
        return Saver(directory, torch.device("cpu"))

    @cached_property
    def _waiting(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1)

    def save(self) -> None:
        """A copy in memory; the rest is the thread's."""
        self._number += 1
        contents = CheckpointContents(
            self.model, self.optimizers, stage="benchmark", step=self._number
        )
        self._saver.save(contents)
        self._written = self._waiting.submit(self._saver.wait)

    def is_done(self) -> bool:
        """Whether the thread has ended; raises what failed in it."""
        return self._written.done() and self._written.result() is None


class TorchSaving(Saving):
    """torch.save into the page cache, over the file that is there: what most loops do."""

    file = "checkpoint.pt"

    def save(self) -> None:
        """All of it."""
        torch.save(as_dict(self.model, self.optimizers), self.folder / self.file)


class DurableTorchSaving(TorchSaving):
    """torch.save such that a crash at any moment leaves a whole file: aside, fsync, rename."""

    file = "aside.pt"

    def save(self) -> None:
        """All of it, on the disk."""
        super().save()
        with open(self.folder / self.file, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.folder / self.file, self.folder / "checkpoint.pt")


class Loading(ABC):
    """An Entry: loads a model or its tensors, one a unit. `more`: by how much memory grew, `mapped`
    (the kernel can take it back, and processes share it) and `own`, and `peak` at the highest.
    """

    @abstractmethod
    def load(self) -> Mapping[str, Tensor]:
        """The tensors by name."""

    def round(self, seconds: float) -> Measure:
        """Loads until the round is over, one at least; what comes between them is not timed."""
        loads, passed, more = 0, 0.0, dict[str, float]()
        while not loads or passed < seconds:
            gc.collect()
            reset_peak()
            before = {key: resident(key) for key in ("RssAnon", "RssFile", "VmRSS")}
            started = time.perf_counter()
            tensors = self.load()
            touch(tensors)
            passed += time.perf_counter() - started
            loads += 1
            more = {"own": resident("RssAnon") - before["RssAnon"]}
            more["mapped"] = resident("RssFile") - before["RssFile"]
            more["peak"] = resident("VmHWM") - before["VmRSS"]
            del tensors
        return Measure(loads, passed, more)


class LmkitLoading(Loading):
    """load_model: a checked checkpoint, a model that generates.

    Args:
        folder: where `write_files` wrote.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self.load()

    def load(self) -> Mapping[str, Tensor]:
        """The model's tensors, which keep it."""
        return load_model(self._folder / "lmkit").state_dict()


class TorchLoading(Loading):
    """torch.load.

    Args:
        folder: where `write_files` wrote.
        file: whole (weights and optimizer state, as loops save them) or weights.
        mmap: map the file into memory.
        shape: make a model too and copy the weights into it; None: the tensors alone.
    """

    def __init__(self, folder: str, file: str, mmap: bool, shape: Shape | None = None) -> None:
        self._file = Path(folder, FILES[file])
        self._mmap, self._shape = mmap, shape
        self.load()

    def load(self) -> Mapping[str, Tensor]:
        """The tensors of the file, or the model's."""
        found = torch.load(self._file, mmap=self._mmap, weights_only=True)
        if self._shape is None:
            return {f"{part}.{name}": t for part in found for name, t in found[part].items()}
        model = make_model(self._shape)
        model.load_state_dict(found["model"])
        return model.state_dict()


def touch(tensors: Mapping[str, Tensor]) -> None:
    """Read a value of every page."""
    for tensor in tensors.values():
        tensor.view(-1)[:: PAGE // tensor.element_size()].sum()


def write_files(shape: Shape, folder: Path) -> None:
    """The same state as lmkit's checkpoint and as torch.save's files."""
    model = make_model(shape)
    optimizers = make_optimizers(model)
    CheckpointContents(model, optimizers, stage="benchmark", step=1).write(folder / "lmkit")
    torch.save(as_dict(model, optimizers), folder / FILES["whole"])
    torch.save({"model": model.state_dict()}, folder / FILES["weights"])


def make_model(shape: Shape) -> LMBase:
    """GPT-2 of that shape, new."""
    return build_model(gpt2(shape), Tiktoken(shape.tokenizer))


def make_optimizers(model: LMBase) -> OptimizerSet:
    """AdamW over all of it, after a step."""
    optimizers = OptimizerSet.build(named_groups(model), [ADAMW])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step()
    optimizers.zero_grad()
    return optimizers


def as_dict(model: LMBase, optimizers: OptimizerSet) -> dict[str, dict[str, Tensor]]:
    """What a loop written by hand saves."""
    return {"model": model.state_dict(), "optimizer": optimizers.state_tensors()}


def state_bytes(model: LMBase, optimizers: OptimizerSet) -> int:
    """Of the weights, tied ones once, and of the optimizers' state."""
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return weights + sum(tensor.nbytes for tensor in optimizers.state_tensors().values())
