from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmkit.model import linear_cross_entropy, token_loss

N, C, V, LIVE = 23, 8, 40, 37  # the last 3 columns are padding
CASES = [(cap, size) for cap in (None, 5.0) for size in (None, LIVE)]


def case(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden, weight, targets, weights (some zero, some negative)."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, C, dtype=dtype, generator=draw)
    weight = torch.randn(V, C, dtype=dtype, generator=draw)
    targets = torch.randint(0, LIVE, (N,), generator=draw)
    weights = torch.randn(N, dtype=dtype, generator=draw)
    weights[::4] = 0
    return hidden.requires_grad_(), weight.requires_grad_(), targets, weights.requires_grad_()


def plain(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    softcap: float | None,
    size: int | None,
) -> Tensor:
    logits = hidden @ weight.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return (F.cross_entropy(logits[:, :size], targets, reduction="none") * weights).sum()


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).norm() <= tolerance * b.norm())


def test_token_loss_is_a_weighted_sum() -> None:
    logits = torch.randn(2, 3, 5)
    targets = torch.tensor([[0, 1, 2], [3, 4, 0]])
    weights = torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 0.5]])
    log_p = logits.log_softmax(-1)
    by_hand = -sum(weights[b, t] * log_p[b, t, targets[b, t]] for b in range(2) for t in range(3))
    torch.testing.assert_close(token_loss(logits, targets, weights), by_hand)


def test_token_loss_takes_its_statistics_in_float32() -> None:
    logits = torch.randn(1, 50, 1000).bfloat16()
    targets, weights = torch.zeros(1, 50, dtype=torch.long), torch.ones(1, 50)
    loss = token_loss(logits, targets, weights)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, token_loss(logits.float(), targets, weights))


@pytest.mark.parametrize(("softcap", "size"), CASES)
def test_the_analytic_gradient_passes_gradcheck(softcap: float | None, size: int | None) -> None:
    hidden, weight, targets, weights = case(torch.float64)

    def loss(hidden: Tensor, weight: Tensor, weights: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, targets, weights, softcap, size, chunk=5)

    assert torch.autograd.gradcheck(loss, (hidden, weight, weights), fast_mode=True)


@pytest.mark.parametrize("chunk", [1, 5, 23, 100, None])
@pytest.mark.parametrize(("softcap", "size"), CASES)
def test_it_equals_the_plain_path(
    softcap: float | None, size: int | None, chunk: int | None
) -> None:
    hidden, weight, targets, weights = case(torch.float32)
    ours = linear_cross_entropy(hidden, weight, targets, weights, softcap, size, chunk)
    theirs = plain(hidden, weight, targets, weights, softcap, size)
    assert close(ours, theirs, 1e-5)
    inputs = (hidden, weight, weights)
    # the factor is what a runner divides by
    ours_g = torch.autograd.grad(ours * 0.3, inputs)
    theirs_g = torch.autograd.grad(theirs * 0.3, inputs)
    assert all(close(a, b, 1e-5) for a, b in zip(ours_g, theirs_g, strict=True))


def test_under_autocast_products_are_bf16_and_sums_float32() -> None:
    hidden, weight, targets, weights = case(torch.float32)
    exact = plain(hidden, weight, targets, weights, 15.0, LIVE)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, weights, 15.0, LIVE, chunk=5)
    assert loss.dtype == torch.float32
    assert loss != exact
    assert close(loss, exact, 1e-2)
    exact_g = torch.autograd.grad(exact, (hidden, weight))
    grads = torch.autograd.grad(loss, (hidden, weight))
    assert grads[1].dtype == torch.float32
    assert all(close(a, b, 2e-2) for a, b in zip(grads, exact_g, strict=True))


def test_the_weights_gradient_is_summed_in_float32() -> None:
    # 300 equal contributions of 1/2: a bf16 sum would stick at 128, where half is its rounding
    hidden = torch.ones(300, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, requires_grad=True)
    targets = torch.zeros(300, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, torch.ones(300), chunk=1)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [-150.0, 150.0]


def test_padding_columns_get_no_gradient() -> None:
    hidden, weight, targets, weights = case(torch.float32)
    linear_cross_entropy(hidden, weight, targets, weights, vocab_size=LIVE).backward()
    assert weight.grad is not None
    assert not weight.grad[LIVE:].any()
    assert weight.grad[:LIVE].any(dim=1).all()


def test_no_tokens_give_zero() -> None:
    hidden, weight, targets, weights = case(torch.float32)
    loss = linear_cross_entropy(hidden[:0], weight, targets[:0], weights[:0])
    loss.backward()
    assert loss == 0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_without_gradients_it_keeps_nothing() -> None:
    hidden, weight, targets, weights = case(torch.float32)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets, weights, 5.0, LIVE, chunk=5)
    assert not loss.requires_grad
    assert close(loss, plain(hidden, weight, targets, weights, 5.0, LIVE), 1e-5)


def test_memory_is_a_chunk_of_logits() -> None:
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    hidden, weight = torch.randn(1000, 4, requires_grad=True), torch.randn(500, 4)
    targets, weights = torch.zeros(1000, dtype=torch.long), torch.ones(1000)
    with Watch():
        linear_cross_entropy(hidden, weight, targets, weights, chunk=20).backward()
    assert largest <= 20 * 500


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # torch.compile's own doing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_compiles_into_one_graph(dtype: torch.dtype) -> None:
    hidden, weight, targets, weights = case(torch.float32)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return linear_cross_entropy(hidden * 2, weight, targets, weights, 15.0, LIVE, chunk=5)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    grads = torch.autograd.grad(compiled(hidden, weight), (hidden, weight))
    expected = torch.autograd.grad(loss(hidden, weight), (hidden, weight))
    assert all(close(a, b, 1e-5) for a, b in zip(grads, expected, strict=True))
