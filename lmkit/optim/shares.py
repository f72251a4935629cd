"""shares: work divided among the ranks, and what comes of it gathered; knows no optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Size, Tensor

from lmkit.errors import DistributedError


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
    try:
        dist.all_gather(list(received), sent)
    except RuntimeError as error:
        raise DistributedError(
            f"rank {dist.get_rank()} of {len(shapes)} lost another rank: {error}",
            hint="its own message says why; the same command goes on from the last checkpoint",
        ) from error
    return [x for row, share in zip(received, shapes, strict=True) for x in _cut(row, share)]


def _cut(flat: Tensor, shapes: Sequence[Size]) -> list[Tensor]:
    """Views of `flat` that have these shapes, one behind the other."""
    sizes = [shape.numel() for shape in shapes]
    pieces = flat[: sum(sizes)].split(sizes)
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
