"""OptimizerSet: several optimizers stepped as one; every trainable parameter is in exactly one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lmkit.config.names import MEND, plugin_errors
from lmkit.config.registry import Spec, build, resolve
from lmkit.errors import CheckpointError, ConfigError
from lmkit.optim.member import Member
from lmkit.optim.owners import Owners
from lmkit.optim.parts import held, is_part, whole
from lmkit.optim.selection import NamedGroups, select, share_out
from lmkit.optim.shares import add_up
from lmkit.ranks.lost import is_of_collective

OURS = ("params", "no_decay", "why")  # keys of a spec that are not for the constructor
# torch has one kernel for these on CPU and GPU: 3.6 times faster at 4 M parameters on the CPU,
# 7.9 at 124 M. Adagrad's is for the CPU only.
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


@dataclass(frozen=True)
class OptimizerState:
    """All that the optimizers of a set remember, to be saved: `OptimizerSet.collect` makes it."""

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]

    def state_tensors(self) -> Mapping[str, Tensor]:
        """As OptimizerSet's own."""
        return self.tensors

    def state_meta(self) -> Mapping[str, Any]:
        """As OptimizerSet's own."""
        return self.meta


class OptimizerSet:
    """Optimizers that are stepped, scheduled, saved and loaded together."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        self._owners: Owners | None = None

    @classmethod
    def build(
        cls, groups: NamedGroups, specs: Sequence[Spec | str | Mapping[str, Any]]
    ) -> OptimizerSet:
        """Make the optimizers that `specs` name, each with its share of the model's parameters.

        A spec may hold `params` (see `selection`; without it, all that no other spec has named),
        `no_decay` (which of its own get weight_decay 0) and `why` (where its rates come from, for
        people). Specs choose in their order; a parameter belongs to the first that names it.
        Parameters that need no gradient belong to none, and an optimizer whose parameters are all
        frozen is left out.

        Args:
            groups: the model's groups: name -> (parameter name, parameter).

        Raises:
            ConfigError: a trainable parameter has no optimizer, an optimizer has no parameter that
                an earlier one has not taken, a word means nothing, or a constructor refuses.
        """
        read = [Spec.of(spec) for spec in specs]
        shares = share_out(groups, read)
        members = [
            _make_member(position, spec, share, groups)
            for position, (spec, share) in enumerate(zip(read, shares, strict=True))
            if share
        ]
        labels = [member.label for member in members]
        for member in members:
            if labels.count(member.label) > 1:
                member.label += f".{member.position}"
        return cls(members)

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter that is trained, once."""
        for member in self.members:
            for _, p in member.named():
                yield p

    def share(self, rank: int, size: int) -> None:
        """Step from now on this rank's share of the parameters only, with the state of those only,
        and get the others' weights from their ranks. Every rank has to step when one does."""
        self.work_alone()
        self._owners = Owners(self.members, rank, size)

    def work_alone(self) -> None:
        """Have no optimizer share its own work among the ranks any more (`shard` of its groups):
        what it computes does not depend on their number then."""
        for member in self.members:
            for group in member.optimizer.param_groups:
                if "shard" in group:
                    group["shard"] = False

    def set_rates(self, multiplier: float) -> None:
        """Set every learning rate to `multiplier` times the one that its spec gives."""
        for member in self.members:
            for group in member.optimizer.param_groups:
                if "lr" in group:
                    group["lr"] = group["initial_lr"] * multiplier

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each optimizer now, by label."""
        firsts = {member.label: member.optimizer.param_groups[0] for member in self.members}
        return {label: float(group["lr"]) for label, group in firsts.items() if "lr" in group}

    @torch.no_grad()
    def grad_norm(self) -> Tensor:
        """The norm of all gradients together, a scalar on their device; nothing waits for it."""
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        pieces = [held(grad) for grad in grads]
        norm = torch.nn.utils.get_total_norm(pieces, foreach=_foreach(pieces))
        if any(map(is_part, grads)):  # then all are: fully_shard leaves out none
            norm = add_up(norm.square()).sqrt()
        return norm

    @torch.no_grad()
    def step(self, clip: float | None = None, grad_norm: Tensor | None = None) -> Tensor | None:
        """Step every optimizer, with gradients scaled down to the norm `clip` where one is given.

        Args:
            clip: the largest norm of all gradients together.
            grad_norm: that norm, if the caller has measured it.

        Returns:
            the norm before clipping, if it was measured.

        Raises:
            PluginError: an optimizer's `step` fails; holds its traceback.
        """
        if clip is not None:
            grad_norm = self.grad_norm() if grad_norm is None else grad_norm
            params = [p for p in self.parameters() if p.grad is not None]
            torch.nn.utils.clip_grads_with_norm_(params, clip, grad_norm, foreach=_foreach(params))
        if self._owners:
            self._owners.keep_own_gradients()
        for member in self.members:
            said = f"{member.class_name}.step fails"
            with plugin_errors(said, hint=MEND, passes=is_of_collective):
                member.optimizer.step()
        if self._owners:
            self._owners.spread()
        return grad_norm

    def zero_grad(self) -> None:
        """Forget all gradients and free their memory."""
        for p in self.parameters():
            p.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """The live state, keyed `<optimizer's position>/<parameter name>/<state key>`."""
        tensors: dict[str, Tensor] = {}
        for member in self.members:
            member.pack_all(tensors)
        return tensors

    def state_meta(self) -> dict[str, Any]:
        """What is no tensor, as JSON: classes, parameter names and forms, settings, counters."""
        return {str(member.position): member.pack_all({}) for member in self.members}

    def collect(self, *, here: bool = True) -> OptimizerState:
        """The state of all ranks in one place; every rank has to call it.

        Args:
            here: whether this is the place, rank 0, or what is given back does not matter.
        """
        tensors: dict[str, Tensor] = {}
        meta = {str(member.position): member.pack_all(tensors) for member in self.members}
        if self._owners:
            self._owners.collect(meta, tensors)
        for key, tensor in tensors.items():
            if is_part(tensor):  # one after the other: a rank needs no room for two
                complete = whole(tensor)
                tensors[key] = complete.cpu() if here else complete[:0]
        return OptimizerState(tensors, meta)

    def check(self, meta: Mapping[str, Any]) -> None:
        """Make sure that `load` of what `state_meta` gave would succeed; changes nothing.

        Raises:
            CheckpointError: not the same optimizers, parameter names, shapes or dtypes.
        """
        here = [str(member.position) for member in self.members]
        if here != list(meta):
            raise CheckpointError(
                f"the optimizers saved are number {', '.join(meta)}, those here {', '.join(here)}"
            )
        for member in self.members:
            member.check(meta[str(member.position)])

    def load(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on from a saved state, to the bit; of the tensors it copies what this rank keeps.

        Settings that the specs have changed since (a new weight_decay) stay as they are now.

        Raises:
            CheckpointError: not the same optimizers, parameter names, shapes or dtypes, or a tensor
                is missing or left over. The set may then be half loaded.
        """
        self.check(meta)
        left = dict(tensors)
        for member in self.members:
            saved = meta[str(member.position)]
            member.load(saved, left, *([self._owners.own] if self._owners else []))
        if left:
            raise CheckpointError(f"the optimizers' state has {min(left)}, which nothing needs")


def _make_member(
    position: int, spec: Spec, share: Mapping[str, Parameter], groups: NamedGroups
) -> Member:
    """Build one optimizer over its share, in two groups if some of it does not decay."""
    at = spec.places.get("no_decay", spec.at)
    excluded = select(spec.args.get("no_decay", ()), groups, at)
    names = [[n for n in share if n not in excluded], [n for n in share if n in excluded]]
    extras: list[dict[str, Any]] = [{}, {"weight_decay": 0.0}]
    given = [
        {"params": [share[name] for name in some], "param_names": some, **extra}
        for some, extra in zip(names, extras, strict=True)
        if some
    ]
    args = {key: value for key, value in spec.args.items() if key not in OURS}
    bare = Spec(spec.path, args, spec.at, spec.places)
    offered: dict[str, Any] = {"params": given}
    if _can_fuse(resolve(spec.path, spec.at), bare, next(iter(share.values()))):
        offered["fused"] = True
    optimizer = build(bare, **offered)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(f"{spec.path} is no torch.optim.Optimizer", at=spec.at)
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError(f"{spec.path} needs a closure, and steps are made without", at=spec.at)
    if excluded and "weight_decay" not in optimizer.defaults:
        raise ConfigError(f"{spec.path} has no weight_decay, so no_decay means nothing", at=at)
    words = spec.args.get("params") or ()
    label = "+".join([words] if isinstance(words, str) else words)
    return Member(
        position,
        type(optimizer).__name__ + (f"/{label}" if label else ""),
        optimizer,
        [some for some in names if some],
        why=str(spec.args.get("why", "")),
    )


def _can_fuse(target: Any, spec: Spec, p: Parameter) -> bool:
    chosen = {"fused", "foreach", "differentiable", "capturable"} & set(spec.args)
    if chosen or (is_part(p) and target is torch.optim.SGD):  # torch 2.13 has no such kernel
        return False
    return target in FUSED or (target is torch.optim.Adagrad and p.is_cpu and not is_part(p))


def _foreach(tensors: Sequence[Tensor]) -> bool | None:
    """None lets torch choose; on the CPU its foreach kernels lose to a loop."""
    return False if tensors and tensors[0].is_cpu else None
