"""precision: the dtype that a model computes in. Weights and optimizer state stay fp32.

`auto` is bf16 where the hardware makes it fast and fp32 elsewhere. The choice is recorded with the
run, so that a resumed run computes in what it started with. `fp8` is bf16 but for the products of
the blocks' linear layers in training passes (see `lmkit.nn.float8`); what has no gradient
(evaluation, generation, the log-probabilities that an objective compares with) is bf16 all through.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from timeit import repeat
from typing import Any, Literal

import torch
from torch import nn

from lmkit.errors import ConfigError
from lmkit.nn.float8 import use_float8
from lmkit.optim import OptimizerSet
from lmkit.ranks.world import World

Policy = Literal["auto", "bf16", "fp16", "fp32", "fp8"]
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8": torch.bfloat16,
}
FP8_FROM = (8, 9)  # compute capability: Ada, Hopper and what came after
FP8_NEEDS = "an NVIDIA GPU of compute capability 8.9 (Ada, Hopper) or newer"
PROBE_SIZE = 512  # rows of matrices whose product takes a millisecond: enough to tell dtypes apart
PROBE_GAIN = 1.3  # bf16 must win by this much: casts cost some 7 % of a step


def choose(policy: Policy, device: torch.device) -> str:
    """Turn a policy into "bf16", "fp16", "fp32" or "fp8".

    Raises:
        ConfigError: there is no such precision, or this device has no fp8.
    """
    if policy == "fp8" and not has_fp8(device):
        raise ConfigError(
            f"precision fp8 needs {FP8_NEEDS}, which {device} is not",
            hint="use bf16",
        )
    if policy != "auto":
        if policy not in DTYPES:
            raise ConfigError(
                f"there is no precision {policy!r}", hint=f"auto, {', '.join(DTYPES)}"
            )
        return policy
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        return "bf16" if bf16_gain() >= PROBE_GAIN else "fp32"
    return "fp32"


def has_fp8(device: torch.device) -> bool:
    """Whether the device multiplies in 8 bits."""
    if device.type != "cuda" or torch.version.hip:  # AMD's 8 bits mean other numbers
        return False
    return torch.cuda.get_device_capability(device) >= FP8_FROM


def bf16_gain() -> float:
    """How many times faster this CPU multiplies in bf16 than in fp32.

    Takes some 20 ms, half of what `peak.measured` does: that has to find the size that tells a
    peak, and here two products of the same size are enough.
    """
    return _best_seconds(torch.float32) / _best_seconds(torch.bfloat16)


def _best_seconds(dtype: torch.dtype) -> float:
    a = torch.ones(PROBE_SIZE, PROBE_SIZE, dtype=dtype)
    return min(repeat(lambda: torch.mm(a, a), number=1, repeat=5))


class Precision:
    """The compute dtype of a run, with fp16's loss scale where that is needed."""

    # fp16 holds magnitudes down to 6e-8: gradients are scaled up, halving on overflow and doubling
    # after a long quiet spell (Micikevicius et al. 2018, arXiv 1710.03740).
    GROWTH_INTERVAL = 2000

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.dtype = DTYPES[name]
        self.device = device
        self.scale = 65536.0 if name == "fp16" else 1.0
        self._good_steps = 0

    def agreed(self, world: World) -> Precision:
        """What suits every rank, where each has timed a product of its own."""
        return Precision("fp32", self.device) if world.max(self.name == "fp32") else self

    def prepare(self, model: nn.Module) -> None:
        """Have `model` train in this precision; only fp8 needs anything done.

        Raises:
            ConfigError: the model has no layer that can be trained in fp8.
        """
        if self.name == "fp8" and not use_float8(model):
            raise ConfigError(
                "precision fp8 finds nothing to do: no linear layer in an nn.ModuleList of the "
                "model has dimensions that are multiples of 16",
                hint="use bf16",
            )

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that forward passes run in."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def unscale(self, optimizers: OptimizerSet) -> None:
        """Bring fp16's gradients back to their true size; nothing to do in other dtypes."""
        if self.scale != 1.0:
            for parameter in optimizers.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(1.0 / self.scale)

    def overflowed(self, finite: bool) -> bool:
        """Adapt fp16's scale to a step with `finite` gradients; True: skip the step."""
        if self.name != "fp16":
            return False
        if not finite:
            self.scale, self._good_steps = self.scale / 2, 0
            return self.scale >= 1.0  # below that, it is no overflow of fp16 but a real NaN
        self._good_steps += 1
        if self._good_steps % self.GROWTH_INTERVAL == 0:
            self.scale *= 2
        return False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps (JSON)."""
        return {"name": self.name, "scale": self.scale, "good_steps": self._good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the loss scale of a checkpoint, if it computed in the same dtype."""
        if state["name"] == self.name:
            self.scale, self._good_steps = state["scale"], state["good_steps"]
