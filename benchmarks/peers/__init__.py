"""peers: other libraries as contestants; imported from their own checkouts, of which nothing is
kept here, and only in the processes that they live in."""

from __future__ import annotations

import importlib
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.rows import Rows
from benchmarks.shapes import Shape

EVALUATION_ROWS = 16


def import_from(folder: str, module: str) -> ModuleType:
    """A module of a peer's checkout."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(module)


class PeerTrainer(ABC):
    """What the trainers of peers share: the batches, the micro-batches, the held-out rows.

    Args:
        rows: the file of the Rows, read around and around.
        device: cpu or cuda.
    """

    model: nn.Module  # as it is, not compiled

    def __init__(self, rows: str, shape: Shape, device: str) -> None:
        self.shape = shape
        self.device = torch.device(device)
        self.steps_done = 0
        self._rows = Rows.read(rows)

    def step(self) -> None:
        """One optimizer step on the next batch."""
        self.learn(list(self._micro_batches()))
        self.steps_done += 1

    @torch.no_grad()
    def bits_per_byte(self) -> float:
        """On the held-out rows."""
        self.model.eval()
        rows = self._rows
        total = 0.0
        for at in range(0, len(rows.held_inputs), EVALUATION_ROWS):
            cut = slice(at, at + EVALUATION_ROWS)
            inputs, targets = self._to(rows.held_inputs[cut]), self._to(rows.held_targets[cut])
            total += float(self.nats(inputs, targets))
        self.model.train()
        return rows.bits_per_byte(total)

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @abstractmethod
    def learn(self, micro_batches: list[tuple[Tensor, Tensor]]) -> None:
        """One optimizer step; each micro-batch is inputs and targets, (B, T) int64."""

    @abstractmethod
    def nats(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The summed loss of the targets that are not UNCOUNTED."""

    def _micro_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = self.shape.batch_rows
        first = self.steps_done * count % len(self._rows.inputs)
        for at in range(first, first + count, self.shape.micro_rows):
            cut = slice(at, min(at + self.shape.micro_rows, first + count))
            yield self._to(self._rows.inputs[cut]), self._to(self._rows.targets[cut])

    def _to(self, rows: np.ndarray) -> Tensor:
        tokens = torch.from_numpy(rows.astype(np.int64))
        if self.device.type == "cuda":
            return tokens.pin_memory().to(self.device, non_blocking=True)
        return tokens


def cosine(done: float, floor: float) -> float:
    """From 1 down to `floor`, as `done` goes from 0 to 1."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
