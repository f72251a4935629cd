"""estimate: the memory and the time that training will take; knows no experiment.

Memory is read off a rehearsal: the model's own forward pass and the optimizers' own step, with
tensors that have a shape and no numbers (torch's FakeTensorMode), so that nothing is allocated
whatever the size.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lmkit.errors import PluginError
from lmkit.model import LMBase
from lmkit.optim import OptimizerSet
from lmkit.text import Batch
from lmkit.train.precision import Precision

# What share of a matrix product's speed training reaches: 0.24 (GRU, bf16) to 0.88 (124M, fp32)
# were measured on a CPU with the zoo's models; half is in the middle, and what nanochat reports for
# a GPU.
EFFICIENCY = 0.5


@dataclass(frozen=True)
class Memory:
    """Bytes that a rank holds at the end of a forward pass, when it holds most.

    On a CPU 4 to 18 % more was measured than the parts say, the copy for saves apart, and with what
    the allocator keeps up to 1.6 times as much.

    Attributes:
        weights: parameters and buffers.
        gradients: of what is trained.
        average: of what is trained, where a stage averages its weights.
        optimizers: their state; None where their step needs numbers to be rehearsed.
        activations: what the forward pass of a micro-batch keeps for the backward pass; None where
            the pass needs numbers.
        available: what the device has in all; None where it does not say.
        on_host: the device is the CPU.
    """

    weights: int
    gradients: int
    average: int
    optimizers: int | None
    activations: int | None
    available: int | None
    on_host: bool

    @property
    def copy(self) -> int | None:
        """What a save copies into the host's memory, and writes from there while training goes on;
        kept from the first save to the end."""
        return None if self.optimizers is None else self.weights + self.average + self.optimizers

    @property
    def parts(self) -> dict[str, int | None]:
        """What lies on the device, by name."""
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "average": self.average,
            "optimizers": self.optimizers,
            "activations": self.activations,
        }
        return parts | ({"copy for saves": self.copy} if self.on_host else {})

    @property
    def total(self) -> int | None:
        """All together, if all is known."""
        known = [n for n in self.parts.values() if n is not None]
        return sum(known) if len(known) == len(self.parts) else None


def estimate_memory(
    model: LMBase,
    optimizers: OptimizerSet,
    rows: int,
    isolated: bool,
    precision: Precision,
    averaged: bool = False,
) -> Memory:
    """Rehearse a micro-batch of full rows, and a step.

    To be called in the mode, fake or not, in which the model was made. The weights are of no use
    afterwards.

    Args:
        isolated: the rows have several documents, kept apart.
        averaged: the stage keeps an average of its weights.
    """
    tensors = [*model.parameters(), *model.buffers()]
    trained = list(optimizers.parameters())
    return Memory(
        weights=sum(map(_bytes, tensors)),
        gradients=sum(map(_bytes, trained)),
        average=sum(map(_bytes, trained)) if averaged else 0,
        activations=_activation_bytes(model, rows, isolated, precision),
        optimizers=_state_bytes(optimizers, trained),
        available=device_memory(precision.device),
        on_host=precision.device.type == "cpu",
    )


def device_memory(device: torch.device) -> int | None:
    """Bytes of memory that the device has; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not on every system
        return None


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
    except (PluginError, RuntimeError) as error:
        _pass_if_numberless(error)
        return None
    owned = {p.untyped_storage() for p in model.parameters()}
    return sum(storage.nbytes() for storage in kept - owned)


def _pass_if_numberless(error: Exception) -> None:
    """Raise the error again, unless torch was asked for a number where there is none: then no one
    can tell."""
    if not any(isinstance(each, RuntimeError) for each in (error, error.__cause__)):
        raise error


def _state_bytes(optimizers: OptimizerSet, trained: list[nn.Parameter]) -> int | None:
    for p in trained:
        p.grad = torch.zeros_like(p)
    try:
        optimizers.step()
    except (PluginError, RuntimeError) as error:
        _pass_if_numberless(error)
        return None
    finally:
        optimizers.zero_grad()
    return sum(map(_bytes, optimizers.state_tensors().values()))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
