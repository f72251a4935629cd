"""int8: linear layers whose weights are whole numbers of eight bits; activations stay as they are.

Symmetric, with a scale for each output: weight[n] is about scale[n] * quantised[n], the largest of
a row is +-127 (LLM.int8, Dettmers et al., arXiv 2208.07339, without its outliers). To write a token
is to read all weights once: a quarter of fp32's bytes is what makes it fast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmkit.nn.linear import FixedLinear, fixed

# torch's kernel works through the weights once for every four rows. One thread, all matrices of a
# GPT of 6 x 384: 1.1 ms for 1 row, 5.5 for 16, 15 for 64, 78 for 256. Widened to bf16 first it is
# 4.0, 6.1, 8.9 and 25 ms.
FEW_ROWS = 16
# that kernel reads so many weights at a time without looking where a row ends: with others it is
# wrong, or a segmentation fault
MULTIPLE = 32


class Int8Linear(FixedLinear):
    """A linear layer with int8 weights; `fits` says of which ones it can be made.

    On the CPU few rows go through a kernel that reads the int8 weights themselves. For many rows,
    and on other devices, they are widened before each product: that saves memory and no time.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(linear, dtype)
        quantised, scales = quantise(linear.weight)
        self.quantised, self.scales = fixed(quantised), scales

    @staticmethod
    def fits(linear: nn.Linear) -> bool:
        """Whether the kernel can read rows of this length."""
        return linear.in_features % MULTIPLE == 0

    def product(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.numel() <= FEW_ROWS * self.in_features:
            rows = x.to(torch.bfloat16).reshape(-1, self.in_features).contiguous()
            y = torch._weight_int8pack_mm(rows, self.quantised, self.scales)
            y = y.view(*x.shape[:-1], self.out_features)
        else:
            y = F.linear(x, self.quantised.to(x.dtype)) * self.scales
        return y if self.bias is None else y + self.bias

    @property
    def weight(self) -> Tensor:
        """What the weights mean, in this layer's dtype."""
        return self.quantised.to(self.dtype) * self.scales.to(self.dtype)[:, None]


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> int8 (N, K), within +-127, and the scales (N,) in bf16 that they are multiples of.

    The scales are rounded before the weights are: their rounding then costs nothing.
    """
    weight = weight.detach().float()
    scales = (weight.abs().amax(1) / 127).to(torch.bfloat16)
    steps = scales.float().masked_fill(scales == 0, 1)  # a row of zeros
    whole = (weight / steps[:, None]).round_().clamp_(-127, 127)
    return whole.to(torch.int8), scales
