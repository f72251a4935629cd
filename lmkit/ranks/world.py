"""world: which rank this process is, on which device, and the few collectives that training needs.

torchrun does the launching and the rendezvous: it sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR
and MASTER_PORT, on one node or many. Without those variables there is one process, and nothing to
connect. How the processes find each other and hear of each other's end stands in launch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from lmkit.errors import ConfigError, DistributedError, Stopped
from lmkit.ranks.launch import fell, join, leave
from lmkit.ranks.lost import in_collective
from lmkit.ranks.parent import die_with_launcher

# torch's default for gloo is 30: a rank that hangs should not cost that
COLLECTIVE_TIMEOUT = 600.0  # seconds
# Every group joined, for as long as the process lives. If DDP's Reducer held the last reference to
# one, its end would join gloo's threads under the interpreter's lock, for which one of them waits:
# seen as a process that never ends in one of three launches (torch 2.13).
_JOINED: list[object] = []


class World:
    """This process among the others: `rank` of `size`, and the `device` it computes on.

    Args:
        timeout: seconds that a collective may take before its ranks give up.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, timeout: float = COLLECTIVE_TIMEOUT
    ) -> None:
        self.rank = rank
        self.size = size
        self.device = device
        self.timeout = timedelta(seconds=timeout)

    @classmethod
    def from_environment(
        cls, device: str | torch.device = "auto", timeout: float = COLLECTIVE_TIMEOUT
    ) -> World:
        """Read torchrun's variables. Ranks meet here for the first time: from now on each hears
        when another ends, also while it is busy with its data.

        Raises:
            ConfigError: the device is not on this machine.
            DistributedError: the ranks do not find each other.
        """
        die_with_launcher()
        chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)  # streams and events are made on the current one
        world = cls(
            rank=int(os.environ.get("RANK", "0")),
            size=int(os.environ.get("WORLD_SIZE", "1")),
            device=chosen,
            timeout=timeout,
        )
        if world.size > 1 and not dist.is_initialized():
            join(world.rank, world.size, world.timeout)
        return world

    def __str__(self) -> str:
        """`cpu`, or of several `8 x cuda`."""
        return str(self.device) if self.size == 1 else f"{self.size} x {self.device.type}"

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and prints."""
        return self.rank == 0

    @contextmanager
    def connected(self, facts: Mapping[str, object] | None = None) -> Iterator[None]:
        """Be with the other ranks while the `with` block runs.

        An error that ends it is told to the others. One that only follows from the end of another
        rank becomes a DistributedError in the words of the first that failed.

        Args:
            facts: as of `connect`.
        """
        self.connect(facts)
        try:
            yield
        except Stopped:
            raise  # all of them do
        except Exception as error:
            if self.size == 1:
                raise
            end = fell(error, self.rank, self.size).error
            if end is error:
                raise
            raise end from error
        finally:
            self.disconnect()

    def connect(self, facts: Mapping[str, object] | None = None) -> None:
        """Join the other ranks; after the data is tokenised, so that no collective waits for that.

        Args:
            facts: what has to be the same on all of them, by name.

        Raises:
            DistributedError: the ranks do not find each other, or a fact differs.
        """
        if self.size == 1 or dist.is_initialized():
            return
        launch = join(self.rank, self.size, self.timeout)
        launch.agree(facts or {})
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(
                backend,
                store=launch.store,
                rank=self.rank,
                world_size=self.size,
                timeout=self.timeout,
            )
            _JOINED.append(dist.group.WORLD)
        except (RuntimeError, ValueError) as error:
            raise DistributedError(
                f"cannot reach the others: {error}",
                hint="GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network to use",
            ) from error

    def disconnect(self) -> None:
        """Leave the group; a later `connect` may join a new one."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
            leave()

    def tell(self, error: Exception) -> str | None:
        """Tell the other ranks that `error` ends this one; the line to print of it, None where
        another rank prints one."""
        return fell(error, self.rank, self.size).line if self.size > 1 else str(error)

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
        with in_collective():
            dist.all_reduce(tensor, op=op)
        return tensor.tolist()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.min(0.0)

    def in_place(self, value: float) -> list[float]:
        """`value` at this rank's place among as many zeros as there are other ranks: the sum over
        all ranks is then every rank's."""
        return [value if rank == self.rank else 0.0 for rank in range(self.size)]


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
