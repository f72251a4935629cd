from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lmkit.nn import rms_norm


@pytest.mark.parametrize("strided", [False, True])
def test_values_and_gradient_are_torchs(strided: bool) -> None:
    x = torch.randn(3, 5, 16, dtype=torch.float64).transpose(0, 1 if strided else 0)
    x.requires_grad_()
    grad = torch.randn_like(x)
    expected = F.rms_norm(x, (16,))
    torch.testing.assert_close(rms_norm(x), expected)
    (mine,) = torch.autograd.grad(rms_norm(x), x, grad)
    (theirs,) = torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(mine, theirs)


def test_bf16_stays_bf16_under_autocast_and_close() -> None:
    x = torch.randn(64, 256).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = rms_norm(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), F.rms_norm(x.float(), (256,)), atol=0.02, rtol=0.012)


def test_zeros_stay_zeros() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    rms_norm(x).sum().backward()
    assert torch.equal(rms_norm(x), torch.zeros(2, 8))
    assert x.grad is not None
    assert x.grad.isfinite().all()
