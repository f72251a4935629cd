"""Linear layers in 8 bits: the arithmetic next to float32, and which layers have it, and when."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmkit.nn.float8 import E4M3, E5M2, Float8Linear, quantise, use_float8


def has_scaled_mm() -> bool:
    one, scale = torch.ones(16, 16).to(E4M3), torch.ones(())
    try:
        torch._scaled_mm(one, one.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)
    except (NotImplementedError, RuntimeError):
        return False
    return True


pytestmark = pytest.mark.skipif(not has_scaled_mm(), reason="torch has no _scaled_mm on this CPU")


class Blocks(nn.Module):
    """An embedding, a block with a gate, a head."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(64, 32)
        block = {
            "wide": nn.Linear(32, 48, bias),
            "gate": nn.Linear(32, 2),
            "odd": nn.Linear(12, 16),
        }
        self.blocks = nn.ModuleList([nn.ModuleDict(block)])
        self.head = nn.Linear(32, 64)


def far(a: Tensor, b: Tensor) -> float:
    """How far a is from b, as a share of b."""
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


@pytest.mark.parametrize(("dtype", "error"), [(E4M3, 0.04), (E5M2, 0.08)])
@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15])
def test_a_tensor_of_any_size_is_kept_to_its_mantissa(
    dtype: torch.dtype, error: float, size: float
) -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * size
    x8, scale = quantise(x, dtype)
    assert x8.dtype == dtype
    assert x8.float().abs().max() == torch.finfo(dtype).max
    assert far(x8.float() * scale, x) < error
    assert not quantise(torch.zeros(4, 4), dtype)[0].float().any()
    assert quantise(torch.tensor([torch.nan, 1.0]), dtype)[0].isnan().any()  # a NaN is not hidden


@pytest.mark.parametrize("tokens", [8, 9])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_a_linear_layer(bias: bool, tokens: int) -> None:
    model = Blocks(bias)
    assert use_float8(model) == 1
    layer = model.blocks[0]["wide"]
    x = torch.randn(2, tokens, 32, requires_grad=True)
    weight = torch.randn(2, tokens, 48)
    parameters = [x, *layer.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad((out * weight).sum(), parameters)
    exact = F.linear(x, layer.weight, layer.bias)
    expected = torch.autograd.grad((exact * weight).sum(), parameters)
    assert 0.005 < far(out, exact) < 0.05  # bf16 would be within 0.005
    for grad, plain in zip(grads, expected, strict=True):
        assert grad.dtype == plain.dtype
        assert far(grad, plain) < 0.09


def test_only_layers_of_blocks_that_fit_change_and_no_name_does() -> None:
    class Own(nn.Linear):
        pass

    model = Blocks()
    model.blocks.append(Own(16, 16))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert use_float8(model) == 1
    assert use_float8(model) == 1  # again, at the next stage
    changed = [name for name, m in model.named_modules() if isinstance(m, Float8Linear)]
    assert changed == ["blocks.0.wide"]
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)
    assert use_float8(nn.Sequential(nn.Linear(16, 16))) == 0


def test_without_gradient_or_autocast_it_is_a_plain_layer() -> None:
    model = Blocks()
    use_float8(model)
    layer = model.blocks[0]["wide"]
    x = torch.randn(16, 32)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
        assert not torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_a_copy_has_weights_of_its_own() -> None:
    model = Blocks()
    use_float8(model)
    other = copy.deepcopy(model)
    nn.init.zeros_(other.blocks[0]["wide"].weight)
    nn.init.zeros_(other.blocks[0]["wide"].bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert not other.blocks[0]["wide"](torch.randn(16, 32)).any()
        assert model.blocks[0]["wide"](torch.randn(16, 32)).any()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch
def test_it_compiles_in_one_graph() -> None:
    model = Blocks(bias=False)
    use_float8(model)
    layer = model.blocks[0]["wide"]
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(16, 32)
    results = []
    for f in (compiled, layer):
        with torch.autocast("cpu", torch.bfloat16):
            out = f(x)
        results.append([out, *torch.autograd.grad(out.sum(), [layer.weight])])
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=0.01, rtol=0.02)  # a rounding of bf16
