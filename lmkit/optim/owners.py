"""owners: which rank steps which parameter, when optimizer states are shared out (ZeRO-1).

Every rank has all weights and, after a backward pass, all gradients; the optimizers' states and
work are cut among the ranks at the grain of whole parameters, so that any optimizer will do, one
that looks at a whole matrix too. A parameter without a gradient is one that an optimizer leaves
alone: so a rank drops the gradients that are not its own, steps, and gets the other weights from
their owners. (Rajbhandari et al. 2020, arXiv 1910.02054, cuts a flat buffer instead.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lmkit.optim.member import Member
from lmkit.optim.shares import broadcast, receive, receive_json, send, send_json, share_out


class Owners:
    """The parameters of some optimizers, shared out among `size` ranks.

    Each optimizer's are shared out by themselves, by what a step of each costs: the optimizer's
    method `cost(parameter)` says, or else the number of elements.
    """

    def __init__(self, members: Sequence[Member], rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._members = members
        self._owner: dict[Parameter, int] = {}
        for member in members:
            named = [p for _, p in member.named()]
            cost = getattr(member.optimizer, "cost", Tensor.numel)
            for owner, share in enumerate(share_out([cost(p) for p in named], size)):
                self._owner.update((named[i], owner) for i in share)

    def own(self, p: Parameter) -> bool:
        """Whether this rank steps `p` and keeps its state."""
        return self._owner[p] == self.rank

    def keep_own_gradients(self) -> None:
        """Drop the gradients of all other parameters."""
        for p in self._owner:
            if not self.own(p):
                p.grad = None

    @torch.no_grad()
    def spread(self) -> None:
        """Give every rank the weights as their owners have stepped them.

        Raises:
            DistributedError: another rank is gone.
        """
        broadcast([p.data for p in self._owner], list(self._owner.values()))

    def collect(self, meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Put the states of all ranks together on rank 0; every rank has to call it.

        Args:
            meta: by optimizer, as its `pack_all` gives it; completed on rank 0.
            tensors: the same; what other ranks kept comes to lie on the CPU.
        """
        device = next(iter(self._owner)).device
        if self.rank:
            own: dict[str, Tensor] = {}
            states = [
                [str(member.position), name, member.pack_state(name, p, own)]
                for member, name, p in self._named()
                if self.own(p)
            ]
            forms = [[key, list(t.shape), str(t.dtype)] for key, t in own.items()]
            send_json([states, forms], 0, device)
            send([tensor.to(device) for tensor in own.values()], 0)
            return
        for other in range(1, self.size):
            states, forms = receive_json(other, device)
            for position, name, state in states:
                meta[position]["parameters"][name]["state"] = state
            for key, shape, dtype in forms:
                kind = getattr(torch, dtype.removeprefix("torch."))
                (tensor,) = receive([torch.empty(shape, dtype=kind, device=device)], other)
                tensors[key] = tensor.cpu()

    def _named(self) -> Iterator[tuple[Member, str, Parameter]]:
        for member in self._members:
            for name, p in member.named():
                yield member, name, p
