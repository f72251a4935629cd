"""Attention over documents and windows by blocks is attention; uncompiled, as a CPU can run it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention

from lmkit.nn import attention, flex
from lmkit.nn.attention import Mask, attend, attend_reference

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
CPU = torch.device("cpu")
LENGTH = 140  # two blocks of queries, the second one short


def heads(kv_heads: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(kv_heads)
    shapes = [(2, 2, LENGTH, 16)] + [(2, kv_heads, LENGTH, 16)] * 2
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """`attend` goes by blocks as it does on CUDA, also where a gradient is asked for: torch refuses
    that on the CPU because it has no kernel there, and none is compiled here."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(attention, "BLOCKED_UP_TO", 0)
    monkeypatch.setattr(flex, "suits", lambda q, v: True)


@pytest.fixture
def documents() -> Tensor:
    """Of different lengths in the two rows; one number comes back later."""
    return torch.stack([torch.arange(LENGTH) // 50, torch.arange(LENGTH) // 9 % 7])


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize(
    ("split", "window", "kv_heads"), [(True, None, 2), (False, 30, 1), (True, 30, 1)]
)
def test_values_and_gradients_are_the_reference(
    split: bool, window: int | None, kv_heads: int, documents: Tensor
) -> None:
    q, k, v = heads(kv_heads)
    mask = Mask.causal(LENGTH, documents=documents if split else None, window=window)
    weight = torch.randn(q.shape)
    results = []
    for f in (attend, attend_reference):
        out = f(q, k, v, mask=mask, scale=0.5)
        results.append([out, *torch.autograd.grad((out * weight).sum(), (q, k, v))])
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("taken")
def test_bf16_stays_close_and_layers_share_a_block_mask(
    documents: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = heads(2, torch.bfloat16)
    mask = Mask.causal(LENGTH, documents=documents)
    made = []
    create = flex.make_block_mask
    monkeypatch.setattr(flex, "make_block_mask", lambda *a: made.append(a) or create(*a))
    for layer in (q, q.detach()):
        out = attend(layer, k, v, mask=mask)
        expected = attend_reference(layer, k, v, mask=mask)
        torch.testing.assert_close(out, expected, atol=0.03, rtol=0.03)
    assert len(made) == 1


def test_a_block_mask_leaves_out_blocks_that_nobody_sees() -> None:
    mask = Mask.causal(512, window=100).block_mask(CPU)
    assert mask.kv_num_blocks.tolist() == [[[1, 2, 2, 2]]]
    documents = (torch.arange(512) >= 256).long()[None]
    mask = Mask.causal(512, documents=documents).block_mask(CPU)
    dense = mask.to_dense()[0, 0]
    assert dense.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


@pytest.mark.usefixtures("taken")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch
def test_a_model_is_compiled_with_it_in_one_graph(documents: Tensor) -> None:
    def layers(q: Tensor, k: Tensor, v: Tensor, documents: Tensor) -> Tensor:
        mask = Mask.causal(LENGTH, q.device, documents, 30)
        return attend(attend(q, k, v, mask=mask), k, v, mask=mask)

    q, k, v = heads(2)
    compiled = torch.compile(layers, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v, documents), layers(q, k, v, documents))


def test_it_is_for_long_rows_of_half_precision_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    def suits(device: str = "cuda", dtype: str = "bfloat16", length: int = 256, width: int = 64):
        like = SimpleNamespace(
            device=torch.device(device), dtype=getattr(torch, dtype), shape=(1, 2, length, width)
        )
        return flex.suits(like, like)

    monkeypatch.setattr(flex, "_has_compiler", lambda: True)
    assert suits()
    assert not suits(device="cpu")
    assert not suits(device="mps")
    assert not suits(dtype="float32")
    assert not suits(length=255)
    assert not suits(width=8)
    assert not suits(width=512)
    monkeypatch.setattr(flex, "_has_compiler", lambda: False)
    assert not suits()


def test_only_documents_and_windows_have_a_rule() -> None:
    assert not Mask.causal(8).has_rule
    assert not Mask.causal(8, window=8).has_rule
    assert not Mask(torch.ones(1, 1, 8, 8, dtype=torch.bool), triangular=True, window=3).has_rule
    assert Mask.causal(8, window=7).has_rule


def test_without_a_compiler_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flex._has_compiler.cache_clear()
    monkeypatch.setattr(flex, "find_spec", lambda name: None)
    assert not flex._has_compiler()
    assert not flex._has_compiler()
    flex._has_compiler.cache_clear()
    (record,) = caplog.records
    assert "SDPA does its work" in record.getMessage()
