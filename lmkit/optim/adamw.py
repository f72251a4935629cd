"""AdamW: torch's fused kernel, and torch's state; starts without torch._dynamo (see eager)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.adamw import adamw

from lmkit.errors import ConfigError
from lmkit.optim.eager import EagerOptimizer
from lmkit.optim.parts import held


class AdamW(EagerOptimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).

    Steps as torch.optim.AdamW does, to the bit. State per parameter: `step`, `exp_avg` and
    `exp_avg_sq`, of the same names and forms as torch's.

    Args:
        params: tensors, or groups of them.
        betas: shares of the past in the running means of the gradient and of its square.
        eps: added to the root of the latter.
        weight_decay: a step takes lr * weight_decay of a weight away.
        fused: one kernel for everything, 3.6-7.9 times as fast as a loop on the CPU.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        fused: bool = True,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if value < 0:
                raise ConfigError(f"AdamW's {name} is {value}", hint="it is at least 0")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"AdamW's betas are {betas}", hint="two numbers in [0, 1)")
        settings = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "fused": fused})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            states = [self._state(p, group["fused"]) for p in params]
            beta1, beta2 = group["betas"]
            # element by element: a rank that holds a part of a tensor needs no other's
            adamw(
                [held(p) for p in params],
                [held(p.grad) for p in params],
                [held(state["exp_avg"]) for state in states],
                [held(state["exp_avg_sq"]) for state in states],
                [],
                [state["step"] for state in states],
                foreach=False,
                fused=group["fused"],
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
        return loss

    def _state(self, p: torch.Tensor, fused: bool) -> dict[str, torch.Tensor]:
        state = self.state[p]
        if not state:
            # the fused kernel counts on the parameter's device, the loop on the CPU
            device = p.device if fused else None
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        return state
