from __future__ import annotations

import torch

from lmkit.nn import activation_dtype, relu_squared


def test_relu_squared() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(relu_squared(x), x.relu() ** 2)
    assert torch.autograd.gradcheck(relu_squared, x)


def test_activations_follow_autocast() -> None:
    assert activation_dtype("cpu") == torch.float32
    assert activation_dtype("cpu", torch.float64) == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert activation_dtype("cpu", torch.float64) == torch.bfloat16
