"""parts: tensors of which every rank holds a part, as fully_shard leaves them; knows no model.

Such a tensor is torch's DTensor, cut along its first dimension. It is told by what it can do, not
by its class: to import that takes as long as a first step.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import Tensor


def is_part(value: Any) -> TypeGuard[Tensor]:
    """Whether this rank holds only a part of a tensor."""
    return hasattr(value, "full_tensor")


def held(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, in the tensor's own memory."""
    return tensor.to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; where it lies in parts every rank has to ask, and every rank gets it."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def piece_of(tensor: Tensor, like: Tensor) -> Tensor:
    """A view of what this rank would hold of `tensor` if it were cut as `like` is."""
    if not is_part(like):
        return tensor
    mesh, (placement,) = like.device_mesh, like.placements  # type: ignore[attr-defined]
    pieces, rank = tensor.chunk(mesh.size(), placement.dim), mesh.get_local_rank()
    # a tensor of fewer rows than ranks leaves the last ones nothing
    return pieces[rank] if rank < len(pieces) else tensor.narrow(placement.dim, 0, 0)


def as_part(piece: Tensor, like: Tensor) -> Tensor:
    """The tensor of which every rank holds its `piece`, cut as `like` is."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        piece,
        like.device_mesh,  # type: ignore[attr-defined]
        like.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
