from __future__ import annotations

import torch

from lmkit.nn import rotate, rotation


def turned(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return rotate(x, rotation(positions, x.shape[-1], dtype=x.dtype))


def test_a_rotation_is_a_complex_product() -> None:
    x = torch.randn(2, 3, 7, 8)
    positions = torch.arange(7)
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(0, 8, 2) / 8)
    # turned clockwise, as nanochat does; only the difference of two positions counts
    expected = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones(7, 4), -angles)
    both = torch.cat([expected.real, expected.imag], -1)
    torch.testing.assert_close(turned(x, positions), both, atol=1e-5, rtol=1e-5)


def test_only_distance_counts() -> None:
    q, k = torch.randn(2, 1, 1, 6, 16, dtype=torch.float64)
    scores = [turned(q, at) @ turned(k, at).mT for at in (torch.arange(6), torch.arange(6) + 900)]
    torch.testing.assert_close(*scores, atol=1e-3, rtol=1e-3)


def test_rows_have_their_own_positions() -> None:
    x = torch.randn(2, 3, 4, 8)
    positions = torch.tensor([[0, 1, 2, 3], [5, 6, 7, 8]])
    both = turned(x, positions)
    for row in range(2):
        assert torch.equal(both[row], turned(x[row : row + 1], positions[row])[0])


def test_the_gradient_is_exact() -> None:
    x = torch.randn(1, 2, 3, 8, dtype=torch.float64, requires_grad=True)
    turn = rotation(torch.arange(3), 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotate(x, turn), x)


def test_far_positions_are_exact_in_bf16() -> None:
    cos, sin = rotation(torch.tensor([1001]), 2, dtype=torch.bfloat16)
    angle = torch.tensor(1001.0)
    torch.testing.assert_close(cos[..., 0, 0].float(), angle.cos()[None], atol=4e-3, rtol=0)
    torch.testing.assert_close(sin[..., 0, 0].float(), angle.sin()[None], atol=4e-3, rtol=0)
