"""ordered: one step's gradient, the same to the bit on 1, 2, 4 or any number of ranks.

A sum of floats depends on its order. So micro-batches have numbers in the global batch, are cut and
seeded by these alone, and their gradients are added in pairs, the pairs in pairs and so on: a tree
that follows from the numbers. A rank adds what of the tree lies within its own micro-batches, takes
over what the rank before it has, and hands on what is left. At most log2(micro-batches) + 1
gradients are held at once, and log2(micro-batches) sent; DDP sends two, while it computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lmkit.model import Loss
from lmkit.optim.shares import broadcast, receive, send
from lmkit.ranks.world import World
from lmkit.text import Batch
from lmkit.train.accumulate import backward, micro_batches
from lmkit.train.precision import Precision

Term = Sequence[Tensor]  # each parameter's gradient, then the loss and which of them there were


def accumulate_ordered(
    loss_module: nn.Module,
    batch: Batch,
    *,
    micro_batch: int,
    world: World,
    precision: Precision,
    seed: int,
) -> Loss:
    """As `accumulate`, for a `batch` that begins and ends at a border of micro-batches.

    Args:
        loss_module: the bare one: DDP would add in an order of its own.
        seed: the random numbers of a micro-batch follow from it and the micro-batch's number.

    Raises:
        DistributedError: another rank is gone.
    """
    chunks = micro_batches(batch, micro_batch) if len(batch) else []
    numbers = [batch.count, batch.bytes, batch.checksum(), *world.in_place(len(chunks))]
    count, n_bytes, checksum, *cut = world.sum(numbers)
    first = int(sum(cut[: world.rank]))
    factor = precision.scale / (count or 1.0)
    parameters = [p for p in loss_module.parameters() if p.requires_grad]
    own = PairwiseSum()
    for number, chunk in enumerate(chunks, first):
        loss = backward(loss_module, chunk.to(world.device), factor, precision, (seed, number))
        own.add(Node(0, number, _take(parameters, loss)))
    *gradients, about = _over_ranks(own, first, parameters, world)
    loss, reached = about[0], about[1:].tolist()
    for p, gradient, times in zip(parameters, gradients, reached, strict=True):
        p.grad = gradient if times else None
    return Loss(loss, int(count), int(n_bytes), int(checksum))


@dataclass(frozen=True)
class Node:
    """The sum of 2**level terms, from the one with number index * 2**level on."""

    level: int
    index: int
    term: Term

    def is_left_of(self, other: Node) -> bool:
        """Whether the two together are a node."""
        return (self.level, self.index ^ 1, self.index % 2) == (other.level, other.index, 0)


@dataclass
class PairwiseSum:
    """Numbered terms, added up as far as they make whole nodes; `add` takes them in order."""

    nodes: list[Node] = field(default_factory=list)

    def add(self, node: Node) -> None:
        """Put the next one behind the others. The terms are overwritten."""
        while self.nodes and self.nodes[-1].is_left_of(node):
            left = self.nodes.pop()
            node = Node(left.level + 1, left.index // 2, _add(left.term, node.term))
        self.nodes.append(node)

    def total(self) -> Term:
        """The sum of all, where 0 is the first number."""
        total = self.nodes[-1].term
        for node in reversed(self.nodes[:-1]):
            total = _add(node.term, total)
        return total


def nodes_before(number: int) -> Iterator[tuple[int, int]]:
    """(level, index) of the nodes that the terms 0..number are added up to."""
    at = 0
    for level in reversed(range(number.bit_length())):
        if number >> level & 1:
            yield level, at >> level
            at += 1 << level


def _over_ranks(own: PairwiseSum, first: int, parameters: Sequence[Tensor], world: World) -> Term:
    """The sum of all ranks' terms, on all ranks; this one's begin with number `first`."""
    before, last = PairwiseSum(), world.size - 1
    if world.rank:
        for level, index in nodes_before(first):
            before.add(Node(level, index, receive(_room(parameters, world), world.rank - 1)))
    for node in own.nodes:
        before.add(node)
    if world.rank < last:
        for node in before.nodes:
            send(node.term, world.rank + 1)
    term = before.total() if world.rank == last else _room(parameters, world)
    if last:
        term = [tensor.contiguous() for tensor in term]
        broadcast(term, [last] * len(term))
    return term


def _take(parameters: Sequence[Tensor], loss: Tensor) -> Term:
    """A micro-batch's term: its gradients, which the parameters are relieved of, and its loss."""
    gradients = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    reached = [float(gradient is not None) for gradient in gradients]
    filled = [
        torch.zeros_like(p) if gradient is None else gradient
        for p, gradient in zip(parameters, gradients, strict=True)
    ]
    return [*filled, torch.cat([loss.reshape(1), loss.new_tensor(reached)])]


def _room(parameters: Sequence[Tensor], world: World) -> list[Tensor]:
    """Memory for a term."""
    tensors = [torch.empty(p.shape, dtype=p.dtype, device=p.device) for p in parameters]
    return [*tensors, torch.empty(1 + len(parameters), device=world.device)]


def _add(left: Term, right: Term) -> Term:
    for into, tensor in zip(left, right, strict=True):
        into += tensor
    return left
