"""shares: work divided among the ranks, and tensors that go between them; knows no optimizer.

Whoever waits for a rank that is gone is told so by a DistributedError.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Size, Tensor

from lmkit.ranks.lost import in_collective


def ranks() -> tuple[int, int]:
    """This process's rank and the number of them; (0, 1) where torch.distributed is not in use."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def share_out(costs: Sequence[float], size: int) -> list[list[int]]:
    """Which of the pieces of work each of `size` ranks does.

    The costliest first, each to the rank that has least to do: the busiest rank has at most 4/3 of
    what the best division gives it (Graham 1969). Every rank that asks gets the same answer.
    """
    shares: list[list[int]] = [[] for _ in range(size)]
    loads = [0.0] * size
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        idlest = loads.index(min(loads))
        shares[idlest].append(i)
        loads[idlest] += costs[i]
    return shares


def gather(mine: Sequence[Tensor], shapes: Sequence[Sequence[Size]], like: Tensor) -> list[Tensor]:
    """What every rank has done, rank after rank, bit for bit the same on all of them.

    One collective, in which every share is padded to the largest.

    Args:
        mine: this rank's share.
        shapes: of every rank's.
        like: has the dtype and device of all of them.

    Raises:
        DistributedError: another rank is gone.
    """
    longest = max(sum(shape.numel() for shape in share) for share in shapes)
    sent, received = like.new_zeros(longest), like.new_empty(len(shapes), longest)
    for room, tensor in zip(_cut(sent, [tensor.shape for tensor in mine]), mine, strict=True):
        room.copy_(tensor)
    with in_collective():
        dist.all_gather(list(received), sent)
    return [x for row, share in zip(received, shapes, strict=True) for x in _cut(row, share)]


def add_up(tensor: Tensor) -> Tensor:
    """The sum of every rank's `tensor`, in its place."""
    with in_collective():
        dist.all_reduce(tensor)
    return tensor


def broadcast(tensors: Sequence[Tensor], sources: Sequence[int]) -> None:
    """Overwrite each tensor with that of its source, a rank, on all ranks."""
    with in_collective():
        under_way = [
            dist.broadcast(tensor, source, async_op=True)
            for tensor, source in zip(tensors, sources, strict=True)
        ]
        for work in under_way:
            work.wait()


def send(tensors: Sequence[Tensor], to: int) -> None:
    """Give tensors to another rank, which waits for them with `receive`."""
    with in_collective():
        for tensor in tensors:
            dist.send(tensor.contiguous(), to)


def receive(tensors: Sequence[Tensor], source: int) -> Sequence[Tensor]:
    """Fill contiguous tensors with what another rank sends."""
    with in_collective():
        for tensor in tensors:
            dist.recv(tensor, source)
    return tensors


def send_json(value: Any, to: int, device: torch.device) -> None:
    """Give what JSON can hold to another rank; by `device`, as its group's backend wants it."""
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    send([torch.tensor([len(text)], device=device), text.to(device)], to)


def receive_json(source: int, device: torch.device) -> Any:
    """What another rank gives with `send_json`."""
    (length,) = receive([torch.empty(1, dtype=torch.int64, device=device)], source)
    (text,) = receive([torch.empty(int(length), dtype=torch.uint8, device=device)], source)
    return json.loads(bytes(text.tolist()))


def _cut(flat: Tensor, shapes: Sequence[Size]) -> list[Tensor]:
    """Views of `flat` that have these shapes, one behind the other."""
    sizes = [shape.numel() for shape in shapes]
    pieces = flat[: sum(sizes)].split(sizes)
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
