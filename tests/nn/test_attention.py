"""Every fast path of attention means what attend_reference says."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.nn import attention
from lmkit.nn.attention import Mask, attend, attend_reference


def heads(rows: int, heads: int, kv_heads: int, length: int, dtype: torch.dtype = torch.float32):
    torch.manual_seed(rows + 10 * heads + length)
    shapes = [(rows, heads, length, 8)] + [(rows, kv_heads, length, 8)] * 2
    return [torch.randn(*shape).to(dtype).requires_grad_() for shape in shapes]


@pytest.fixture(params=["blocked", "sdpa"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 4)
    if request.param == "sdpa":
        monkeypatch.setattr(attention, "BLOCKED_UP_TO", 0)


@st.composite
def cases(draw: st.DrawFn):
    length = draw(st.integers(1, 19))
    kv_heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    window = draw(st.none() | st.integers(1, 20))
    rows = draw(st.integers(1, 2))
    documents = None
    if draw(st.booleans()):
        cuts = [
            draw(st.lists(st.booleans(), min_size=length, max_size=length)) for _ in range(rows)
        ]
        documents = torch.tensor(cuts).cumsum(1)
    return rows, kv_heads * groups, kv_heads, length, window, documents


@pytest.mark.usefixtures("path")
@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_values_and_gradients_are_the_reference(case) -> None:
    rows, query_heads, kv_heads, length, window, documents = case
    q, k, v = heads(rows, query_heads, kv_heads, length)
    mask = Mask.causal(length, documents=documents, window=window)
    weight = torch.randn(q.shape)
    results = []
    for f in (attend, attend_reference):
        out = f(q, k, v, mask=mask, scale=0.5)
        results.append([out, *torch.autograd.grad((out * weight).sum(), (q, k, v))])
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-4)


def test_the_reference_is_attention() -> None:
    q, k, v = heads(2, 4, 2, 9)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attend_reference(q, k, v, mask=Mask.causal(9)), expected)


def test_who_sees_whom() -> None:
    documents = torch.tensor([[0, 0, 1, 1, 1, 1]])
    allowed = Mask.causal(6, documents=documents, window=3).tensor(6, 6, torch.device("cpu"))
    assert allowed is not None
    for query, key in itertools.product(range(6), range(6)):
        same = documents[0, query] == documents[0, key]
        assert allowed[0, 0, query, key] == (query - 3 < key <= query and same)


def test_a_window_as_long_as_the_row_is_no_window() -> None:
    assert Mask.causal(8, window=8).allowed is None
    assert Mask.causal(8, window=7).allowed is not None


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("documents", [None, torch.tensor([[0] * 9 + [1] * 11])])
def test_bf16_stays_close(documents: torch.Tensor | None) -> None:
    q, k, v = heads(1, 4, 2, 20, torch.bfloat16)
    mask = Mask.causal(20, documents=documents)
    fast, plain = attend(q, k, v, mask=mask), attend_reference(q, k, v, mask=mask)
    assert fast.dtype == torch.bfloat16
    torch.testing.assert_close(fast, plain, atol=0.03, rtol=0.03)


def test_a_float32_cache_keeps_its_precision_under_autocast() -> None:
    q, k, v = heads(1, 2, 2, 16)
    query = q[:, :, -1:].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(query, k, v, mask=Mask.all())
    assert out.dtype == torch.bfloat16
    exact = attend_reference(query.float(), k, v, mask=Mask.all())
    assert torch.equal(out, exact.bfloat16())


@pytest.mark.usefixtures("path")
def test_mixed_dtypes_under_autocast_have_gradients() -> None:
    q, k, v = heads(1, 2, 2, 9)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(q, k, v.bfloat16(), mask=Mask.causal(9))
    out.sum().backward()
    assert out.dtype == torch.float32
    exact = attend_reference(q, k, v, mask=Mask.causal(9))
    torch.testing.assert_close(out, exact, atol=0.03, rtol=0.03)
    assert all(x.grad is not None and x.grad.dtype == torch.float32 for x in (q, k, v))


def test_the_fast_path_skips_what_nobody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 4)
    blocks = Mask.causal(12, window=3).blocks(12, 12, torch.zeros(()))
    assert [(b.first, b.last) for b in blocks] == [(0, 4), (2, 8), (6, 12)]
