"""world: which rank this process is, on which device, and the few collectives that training needs.

torchrun does the launching and the rendezvous: it sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR
and MASTER_PORT, on one node or many. Without those variables there is one process, and nothing to
connect.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lmkit.errors import ConfigError, DistributedError

# torch's default for gloo is 30: a dead rank should not cost that
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
# Every group joined, for as long as the process lives. If DDP's Reducer held the last reference to
# one, its end would join gloo's threads under the interpreter's lock, for which one of them waits:
# seen as a process that never ends in one of three launches (torch 2.13).
_JOINED: list[object] = []


class World:
    """This process among the others: `rank` of `size`, and the `device` it computes on."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank = rank
        self.size = size
        self.device = device

    @classmethod
    def from_environment(cls, device: str | torch.device = "auto") -> World:
        """Read torchrun's variables; connects to nothing yet.

        Raises:
            ConfigError: the device is not on this machine.
        """
        chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)  # streams and events are made on the current one
        return cls(
            rank=int(os.environ.get("RANK", "0")),
            size=int(os.environ.get("WORLD_SIZE", "1")),
            device=chosen,
        )

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and prints."""
        return self.rank == 0

    def connect(self) -> None:
        """Join the other ranks; after the data is tokenised, so that no collective waits for that.

        Raises:
            DistributedError: the ranks do not find each other.
        """
        if self.size == 1 or dist.is_initialized():
            return
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(
                backend, rank=self.rank, world_size=self.size, timeout=COLLECTIVE_TIMEOUT
            )
            _JOINED.append(dist.group.WORLD)
        except (RuntimeError, ValueError) as error:
            raise DistributedError(
                f"rank {self.rank} of {self.size} cannot join the others: {error}",
                hint="start with `torchrun --nproc_per_node N -m lmkit train EXPERIMENT`",
            ) from error

    def disconnect(self) -> None:
        """Leave the group; a later `connect` may join a new one."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add `values` over all ranks, element by element, in float64; one collective."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def min(self, value: float) -> float:
        """The least of every rank's `value`."""
        return self._reduce([value], dist.ReduceOp.MIN)[0]

    def max(self, value: float) -> float:
        """The greatest of every rank's `value`."""
        return self._reduce([value], dist.ReduceOp.MAX)[0]

    def _reduce(self, values: Sequence[float], op: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        try:
            dist.all_reduce(tensor, op=op)
        except RuntimeError as error:
            raise DistributedError(
                f"rank {self.rank} of {self.size} lost another rank: {error}",
                hint="its own message says why; the same command goes on from the last checkpoint",
            ) from error
        return tensor.tolist()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.min(0.0)

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` as DDP sees it; the module itself when there is one process."""
        if self.size == 1:
            return module
        on_gpu = self.device.type == "cuda"
        return DistributedDataParallel(
            module,
            device_ids=[self.device] if on_gpu else None,
            gradient_as_bucket_view=True,
        )


def pick_device(device: str | torch.device, local_rank: int = 0) -> torch.device:
    """`auto` is this rank's CUDA device, else Apple's GPU, else the CPU.

    Raises:
        ConfigError: the device is unknown or not on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"device {device!r} is unknown", hint="use auto, cpu, cuda, cuda:N or mps"
        ) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for and this machine has none", hint="use cpu")
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", local_rank)
    return chosen
