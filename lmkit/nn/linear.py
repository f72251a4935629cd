"""linear: what stands in for an nn.Linear that will not learn any more; knows no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmkit.errors import ModelError


class FixedLinear(nn.Module):
    """x @ weight.T + bias, computed in a dtype of its own; a subclass says how: `product`.

    x may have any dtype and any shape (..., in_features), and comes back as (..., out_features).
    Under autocast the result has this layer's dtype, as that of an nn.Linear has autocast's;
    otherwise it has the dtype of x, so that whatever stands around it stays as it was.

    Args:
        linear: what it stands in for; its weight may be freed afterwards.
        dtype: of the arithmetic.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = dtype
        self.bias = None if linear.bias is None else fixed(linear.bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        y = self.product(x.to(self.dtype))
        return y.to(self.dtype if torch.is_autocast_enabled(x.device.type) else x.dtype)

    def product(self, x: Tensor) -> Tensor:
        """x @ weight.T + bias, for x in this layer's dtype."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.dtype}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FixedLinear:
        new, old = fn(torch.empty(0, dtype=self.dtype, device=self._device)), self._device
        if (new.dtype, new.device) != (self.dtype, old):
            raise ModelError(
                f"packed for {self.dtype} on {old}, it cannot become {new.dtype} on {new.device}",
                hint="load the model anew: load_model(path, device, precision=...)",
            )
        return self

    @property
    def _device(self) -> torch.device:
        return next(chain(self.parameters(), self.buffers())).device

    def uncount(self) -> None:
        """Its weight is a copy of a parameter that the model still has: count that one only."""
        (name,) = self._parameters.keys() - {"bias"}
        weight = getattr(self, name)
        delattr(self, name)
        self.register_buffer(name, weight.data, persistent=False)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise ModelError(
            f"'{prefix.removesuffix('.')}' is packed for inference, its weights cannot be saved",
            hint="save the model as load_model(path) gives it, without a precision",
        )

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        raise ModelError(
            f"'{prefix.removesuffix('.')}' is packed for inference, nothing can be loaded into it",
            hint="load weights first, then pack_for_inference",
        )


class PlainLinear(FixedLinear):
    """Weights as they lie, for small ones, and for devices that have no better layout."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(linear, dtype)
        self.weight = fixed(linear.weight.to(dtype))

    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def fixed(values: Tensor) -> nn.Parameter:
    """A parameter that does not learn: it counts as one and says where the model is."""
    return nn.Parameter(values.detach(), requires_grad=False)
