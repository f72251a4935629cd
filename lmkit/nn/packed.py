"""packed: a model's linear layers laid out for generating; knows nothing of files or text.

At batch 1 a token costs the reading of all weights, and how they lie decides how fast that goes.
All matrices of a GPT of 6 x 384 with 4,096 ids, one thread of a Zen 5, in ms (nn.Linear -> packed):

    rows      fp32            bf16            int8
    1         3.8 ->  3.4     3.1 ->  1.5      1.1
    16       10.2 ->  7.7     5.6 ->  3.6      5.5
    256      90   -> 43      23   -> 20.5     25
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lmkit.nn.int8 import Int8Linear
from lmkit.nn.linear import FixedLinear, PlainLinear, fixed

Weights = Literal["fp32", "bf16", "int8"]
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# numbers in a matrix: the packed product takes 12 us before it begins. In bf16, one row: 64 x 64 in
# 3 us plain and 12 packed, 128 x 128 in 16 and 12.
SMALL = 128 * 128


def pack_for_inference(
    model: nn.Module, weights: Weights, activations: torch.dtype = torch.bfloat16
) -> None:
    """Replace every nn.Linear of a model, in place, by one that is laid out for this device.

    With bf16 weights the model computes as when it is trained in bf16: `forward` enters autocast.
    What autocast would do at each call is done once, the weights of the linear layers are rounded;
    all other weights stay. With int8 weights it computes in bf16 too.

    Of what looks like an nn.Linear these stay: subclasses, those with hooks, and those inside
    torch's own layers, which read their weights. A packed model does not learn, and is not saved.

    Args:
        weights: of the linear layers.
        activations: of a model with int8 weights; with torch.float32 it is not put under autocast.
    """
    device = next(model.parameters(), torch.empty(0)).device
    computing = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": activations}[weights]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    others = [module for module in model.modules() if type(module) is not nn.Linear]
    tied = {id(weight) for module in others for weight in module._parameters.values()}
    made: weakref.WeakKeyDictionary[nn.Module, FixedLinear] = weakref.WeakKeyDictionary()
    for parent in others:
        for name, child in list(parent._modules.items()):
            if type(child) is nn.Linear and _may_go(child, parent):
                if child not in made:  # a layer may stand in several places
                    made[child] = _packed(child, weights, computing)
                    if id(child.weight) in tied:
                        made[child].uncount()
                setattr(parent, name, made[child])
    if computing != torch.float32:
        model.forward = _under_autocast(model.forward, device.type, computing)
    model.eval()


def _may_go(child: nn.Linear, parent: nn.Module) -> bool:
    of_torch = type(parent).__module__.startswith("torch.") and not isinstance(parent, CONTAINERS)
    return not (of_torch or child._forward_hooks or child._forward_pre_hooks)


def _packed(linear: nn.Linear, weights: Weights, dtype: torch.dtype) -> FixedLinear:
    if weights == "int8" and Int8Linear.fits(linear):
        return Int8Linear(linear, dtype)
    on_cpu, large = linear.weight.device.type == "cpu", linear.weight.numel() >= SMALL
    return (PackedLinear if on_cpu and large and _has_layout(dtype) else PlainLinear)(linear, dtype)


def _has_layout(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a layout of its own for this processor; ARM's is not tried."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _under_autocast(
    forward: Callable[..., Any], kind: str, dtype: torch.dtype
) -> Callable[..., Any]:
    @functools.wraps(forward)
    def inside(*args: Any, **kwargs: Any) -> Any:
        # nothing is cached: the weights that are cast most have their dtype already
        with torch.autocast(kind, dtype, cache_enabled=False):
            return forward(*args, **kwargs)

    return inside


class PackedLinear(FixedLinear):
    """Weights in the blocked layout that oneDNN's kernels read; on the CPU only.

    F.linear, given plain weights, brings them into it at every call.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(linear, dtype)
        weight = linear.weight.detach().to(dtype).contiguous()
        self.packed = fixed(torch.ops.mkldnn._reorder_linear_weight(weight))
        self.number = next(_NUMBERS)
        _LAYERS[self.number] = self

    def product(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return torch.ops.lmkit.packed_linear(x, self.number, self.out_features)
        whole = x.contiguous()  # the kernel does not look at strides
        linear = torch.ops.mkldnn._linear_pointwise.default
        return linear(whole, self.packed, self.bias, "none", [], "")

    @property
    def weight(self) -> Tensor:
        """The weights in rows, (out_features, in_features), for who asks; a copy each time."""
        return self.packed.to_dense()


# A compiler cannot look into a packed tensor. It sees an operator with the number of a layer.
_NUMBERS = itertools.count()
_LAYERS: weakref.WeakValueDictionary[int, PackedLinear] = weakref.WeakValueDictionary()
_LIBRARY = torch.library.Library("lmkit", "FRAGMENT")
_LIBRARY.define("packed_linear(Tensor x, int number, int out_features) -> Tensor")


@torch.library.impl(_LIBRARY, "packed_linear", "CPU")
def _product_of(x: Tensor, number: int, out_features: int) -> Tensor:
    return _LAYERS[number].product(x)


@torch.library.register_fake("lmkit::packed_linear", lib=_LIBRARY)
def _shape_of(x: Tensor, number: int, out_features: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], out_features)
