"""fsdp: a model whose weights lie in parts on all ranks (torch's fully_shard); knows no optimizer.

Each block's weights are put together before its forward pass and its backward pass, and dropped
after each; its gradient is summed and cut when the backward pass has left it. What is outside the
blocks (embedding, head) is put together for the whole step, and so is a block that shares a weight
with another one. (Zhao et al. 2023, arXiv 2304.11277; Rajbhandari et al. 2020, arXiv 1910.02054,
stage 3.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lmkit.errors import ModelError
from lmkit.model import LMBase
from lmkit.optim import OptimizerSet
from lmkit.optim.optimizers import OptimizerState
from lmkit.optim.parts import is_part, whole
from lmkit.train.accumulate import LossModule
from lmkit.train.precision import Precision
from lmkit.train.recompute import outermost_blocks
from lmkit.train.strategy import Strategy

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


class FullySharded(Strategy):
    """Weights, gradients and optimizer states are cut into a part for each rank."""

    lockstep = True
    _root: LossModule | None = None
    _modules: Sequence[FSDPModule] = ()  # the blocks, then the root

    def cut(self, model: LMBase, precision: Precision) -> None:
        """Cut the weights, once; every rank has the same ones.

        Raises:
            ModelError: the model has a parameter that cannot be cut.
        """
        if self._root is None:
            self._root = LossModule(model)
            self._modules = _fully_shard([*_own_blocks(model), self._root], self, precision)
        for module in self._modules:
            module.unshard()  # here torch looks at what is frozen, and not later in the stage
            module.reshard()

    def loss_module(self, model: LMBase) -> LossModule:
        assert self._root is not None
        return self._root

    def wrap(self, module: LossModule) -> nn.Module:
        return module

    @contextmanager
    def whole(self) -> Iterator[None]:
        """While the block runs every rank has all weights, in the dtype that they are used in."""
        *parts, _ = self._modules
        for module in self._modules:
            module.unshard()
        for module in parts:
            module.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for module in parts:
                module.set_reshard_after_forward(True, recurse=False)
            for module in self._modules:
                module.reshard()

    @torch.no_grad()
    def collect(self, named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One tensor after the other: no rank needs room for two on its device."""
        found: dict[Tensor, Tensor] = {}
        for tensor in dict.fromkeys(named.values()):
            complete = whole(tensor)
            if self.world.is_main:
                found[tensor] = complete.cpu() if is_part(tensor) else complete
        return {name: found[tensor] for name, tensor in named.items()} if found else {}

    def collect_optimizers(
        self, optimizers: OptimizerSet | None
    ) -> OptimizerSet | OptimizerState | None:
        return optimizers.collect(here=self.world.is_main) if optimizers else None


def _own_blocks(model: LMBase) -> Iterator[nn.Module]:
    """The blocks whose weights are in no other place of the model."""
    places = _places(model)
    for block in outermost_blocks(model):
        inside = _places(block)
        if all(places[p] == count for p, count in inside.items()):
            yield block


def _places(module: nn.Module) -> Counter[nn.Parameter]:
    """In how many places of a module each of its parameters is."""
    return Counter(p for _, p in module.named_parameters(remove_duplicate=False))


def _fully_shard(
    modules: list[nn.Module], strategy: Strategy, precision: Precision
) -> list[FSDPModule]:
    """Cut the parameters of each module that no module before it has."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    world = strategy.world
    mesh = init_device_mesh(world.device.type, (world.size,))
    narrow = precision.dtype != torch.float32
    policy = MixedPrecisionPolicy(
        param_dtype=precision.dtype if narrow else None,
        reduce_dtype=torch.float32 if narrow else None,
        cast_forward_inputs=False,  # autocast knows better which of them
    )
    tags = {name: dict(vars(p)) for name, p in modules[-1].named_parameters()}
    cut: list[FSDPModule] = []
    for module in modules:
        try:
            cut.append(fully_shard(module, mesh=mesh, mp_policy=policy))
        except (ValueError, NotImplementedError) as error:
            raise ModelError(
                f"strategy fsdp cannot cut the model: {error}", hint="use strategy: sharded"
            ) from error
        cut[-1].set_force_sum_reduction_for_comms(True)  # gloo knows no average
    for name, p in modules[-1].named_parameters():  # new objects: what an author noted goes along
        vars(p).update(tags[name])
    return cut
