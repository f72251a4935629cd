"""eager: an optimizer that torch.compile never looks into; knows no rule of any.

The first group of parameters that a torch.optim.Optimizer takes, and the first step of one of
torch's own, import torch._dynamo: 1.0 s (torch 2.13), near half of what `lmkit train` needs until
its first step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class EagerOptimizer(torch.optim.Optimizer, ABC):
    """torch.optim.Optimizer, but for taking parameters without torch._dynamo."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take one more group: `params`, tensors or (name, tensor) pairs, and its settings.

        Raises:
            TypeError: what it holds is no tensor.
            ValueError: a tensor is in two groups, or is the result of an operation.
        """
        given = param_group["params"]
        given = [given] if isinstance(given, Tensor) else list(given)
        group = {**param_group, "params": given}
        if given and isinstance(given[0], tuple):
            names, group["params"] = map(list, zip(*given, strict=True))
            group["param_names"] = names
        known = {id(p) for old in self.param_groups for p in old["params"]}
        for p in group["params"]:
            if not isinstance(p, Tensor):
                raise TypeError(f"an optimizer steps tensors, and this is a {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError("an optimizer cannot step the result of an operation")
            if id(p) in known:
                raise ValueError("a parameter is given to an optimizer twice")
            known.add(id(p))
        self.param_groups.append({**self.defaults, **group})

    @abstractmethod
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; to be written under `torch.no_grad()`."""
