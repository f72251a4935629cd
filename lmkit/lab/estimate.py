"""estimate: the memory and the time that training will take; knows no experiment.

Memory is read off a rehearsal: the model's own forward pass and the optimizers' own step, with
tensors that have a shape and no numbers (torch's FakeTensorMode), so that nothing is allocated
whatever the size.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lmkit.model import LMBase
from lmkit.optim import OptimizerSet
from lmkit.text import Batch
from lmkit.train.precision import Precision

# What share of a matrix product's speed training reaches: 0.24 (GRU, bf16) to 0.88 (124M, fp32)
# were measured on a CPU with the zoo's models; half is in the middle, and what nanochat reports for
# a GPU.
EFFICIENCY = 0.5
PROBE_SIZES = {"cpu": 512, "cuda": 8192}  # rows of the matrices; milliseconds a product


@dataclass(frozen=True)
class Memory:
    """Bytes that a rank holds at the end of a forward pass, when it holds most.

    On a CPU 4 to 18 % more was measured than `total` says, and with what the allocator keeps up to
    1.6 times as much.

    Attributes:
        weights: parameters and buffers.
        gradients: of what is trained.
        optimizers: their state; None where their step needs numbers to be rehearsed.
        activations: what the forward pass of a micro-batch keeps for the backward pass; None where
            the pass needs numbers.
        available: what the device has in all; None where it does not say.
    """

    weights: int
    gradients: int
    optimizers: int | None
    activations: int | None
    available: int | None

    @property
    def total(self) -> int | None:
        """All together, if all is known."""
        if self.optimizers is None or self.activations is None:
            return None
        return self.weights + self.gradients + self.optimizers + self.activations


def estimate_memory(
    model: LMBase, optimizers: OptimizerSet, rows: int, isolated: bool, precision: Precision
) -> Memory:
    """Rehearse a micro-batch of full rows, and a step.

    To be called in the mode, fake or not, in which the model was made. The weights are of no use
    afterwards.

    Args:
        isolated: the rows have several documents, kept apart.
    """
    tensors = [*model.parameters(), *model.buffers()]
    trained = list(optimizers.parameters())
    return Memory(
        weights=sum(map(_bytes, tensors)),
        gradients=sum(map(_bytes, trained)),
        activations=_activation_bytes(model, rows, isolated, precision),
        optimizers=_state_bytes(optimizers, trained),
        available=device_memory(precision.device),
    )


def device_memory(device: torch.device) -> int | None:
    """Bytes of memory that the device has; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not on every system
        return None


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a product of two square matrices, the best of five."""
    size = PROBE_SIZES.get(device.type, 2048)
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    best = min(_seconds_of_product(matrix) for _ in range(6))  # the first one warms up
    return 2 * size**3 / best


def _activation_bytes(model: LMBase, rows: int, isolated: bool, precision: Precision) -> int | None:
    """What autograd keeps, each storage counted once, the weights themselves left out."""
    kept: set[torch.UntypedStorage] = set()

    def note(tensor: Tensor) -> Tensor:
        kept.add(tensor.untyped_storage())
        return tensor

    ids = torch.zeros(rows, model.max_len, dtype=torch.long, device=model.device)
    documents = ids.int() if isolated else None
    batch = Batch(ids, ids, ids.float(), documents, count=ids.numel(), bytes=0)
    model.train()
    try:
        with precision.autocast(), saved_tensors_hooks(note, lambda tensor: tensor):
            model.loss(batch)
    except RuntimeError:  # it asked for a number, and there is none
        return None
    owned = {p.untyped_storage() for p in model.parameters()}
    return sum(storage.nbytes() for storage in kept - owned)


def _state_bytes(optimizers: OptimizerSet, trained: list[nn.Parameter]) -> int | None:
    for p in trained:
        p.grad = torch.zeros_like(p)
    try:
        optimizers.step()
    except RuntimeError:
        return None
    finally:
        optimizers.zero_grad()
    return sum(map(_bytes, optimizers.state_tensors().values()))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _seconds_of_product(matrix: Tensor) -> float:
    _wait_for(matrix.device)
    started = time.perf_counter()
    torch.mm(matrix, matrix)
    _wait_for(matrix.device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
