"""A packed model says what it said before, to its precision's rounding, and refuses to be saved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lmkit.errors import ModelError
from lmkit.inference.sampling import Sampling
from lmkit.model import LMBase
from lmkit.nn import packed
from lmkit.nn.int8 import Int8Linear
from lmkit.nn.linear import FixedLinear, PlainLinear
from lmkit.nn.packed import PackedLinear, pack_for_inference
from lmkit.text import Byte
from lmkit_models.gpt import GPT
from lmkit_models.gpt2 import GPT2
from lmkit_models.mlp import MLP
from lmkit_models.recurrent import GRULM

MODELS: dict[str, Any] = {
    "gpt": lambda: GPT(depth=2, width=128, head_dim=32, kv_heads=2, max_len=32, tokenizer=Byte()),
    "gpt2": lambda: GPT2(embedding_dim=128, layers=1, heads=2, max_len=32, tokenizer=Byte()),
    "mlp": lambda: MLP(embedding_dim=8, nodes=64, max_len=32, tokenizer=Byte()),
    "recurrent": lambda: GRULM(width=128, layers=1, max_len=32, tokenizer=Byte()),
}
WEIGHTS = ("fp32", "bf16", "int8")
TOLERANCE = {"fp32": 1e-5, "bf16": 0.02, "int8": 0.04}  # of the largest value


def make(name: str) -> LMBase:
    """A model whose logits hang on all its weights."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.1)
    return model


def pack(model: Any, *arguments: Any) -> Any:
    other = copy.deepcopy(model)
    pack_for_inference(other, *arguments)
    return other


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    size = wanted.float().abs().max().item()
    torch.testing.assert_close(found.float(), wanted.float(), rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_model_says_the_same(name: str, weights: Any) -> None:
    model = make(name)
    other = pack(model, weights)
    assert not [m for m in other.modules() if type(m) is nn.Linear]
    assert {p.requires_grad for p in other.parameters()} == {False}
    tokens = torch.randint(0, 257, (2, 12))
    assert_close(other.logits(tokens), model.logits(tokens), TOLERANCE[weights])
    batch = model.tokenize(["to be or not", "be"])  # the loss reads weights of the head itself
    assert_close(other.loss(batch).total, model.loss(batch).total, TOLERANCE[weights])
    assert other.parameter_count() == model.parameter_count()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_bf16_is_what_training_computes(name: str) -> None:
    model, tokens = make(name), torch.randint(0, 257, (2, 12))
    with torch.autocast("cpu", torch.bfloat16):
        wanted = model.logits(tokens)
    found = pack(model, "bf16").logits(tokens)
    assert found.dtype == wanted.dtype
    assert_close(found, wanted, 0.008)  # one step of bf16
    with torch.autocast("cpu", torch.bfloat16):  # as evaluation does
        assert torch.equal(pack(model, "bf16").logits(tokens), found)


@pytest.mark.parametrize("name", ["gpt", "gpt2"])
def test_greedy_ids_in_fp32_stay(name: str) -> None:
    model, prompts = make(name), ["to be", "or", "not to be or"]
    sampling = Sampling(max_new_tokens=12)
    wanted = [answer.ids for answer in model.generate(prompts, sampling)]
    assert [answer.ids for answer in pack(model, "fp32").generate(prompts, sampling)] == wanted


def test_int8_weights_and_fp32_activations() -> None:
    model, tokens = make("gpt"), torch.randint(0, 257, (2, 12))
    other = pack(model, "int8", torch.float32)
    assert_close(other.logits(tokens), model.logits(tokens), TOLERANCE["int8"])
    assert "forward" not in vars(other)  # it does not enter autocast


@given(
    st.sampled_from([(PlainLinear, 1), (PackedLinear, 1), (Int8Linear, 32)]),
    st.integers(1, 40), st.integers(1, 5), st.integers(1, 3), st.integers(1, 18), st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_the_product_is_that_of_its_weights(
    kind: Any, outputs: int, inputs: int, batch: int, length: int, bias: bool, dtype: torch.dtype
) -> None:
    """Of any shape, any strides, with or without a bias."""
    layer, multiple = kind[0], kind[1]
    linear = nn.Linear(inputs * multiple, outputs, bias=bias)
    fast = layer(linear, torch.bfloat16)
    x = torch.randn(length, batch, inputs * multiple + 1).transpose(0, 1)[..., 1:].to(dtype)
    wanted = nn.functional.linear(x.float(), fast.weight.float(), linear.bias)
    found = fast(x)
    assert (found.shape, found.dtype) == (wanted.shape, dtype)
    torch.testing.assert_close(found.float(), wanted, rtol=0.03, atol=0.03)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(x).dtype == torch.bfloat16


class Strange(LMBase):
    """All that looks like a linear layer and is more."""

    def __init__(self) -> None:
        super().__init__(tokenizer=Byte(), max_len=16)
        self.embedding = nn.Embedding(257, 32)
        self.torchs = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.hooked = nn.Linear(32, 32)
        self.hooked.register_forward_hook(lambda module, given, result: result + 1)
        self.several = nn.ModuleList([nn.Linear(32, 32)] * 2)
        self.own = Doubled(32, 32)
        self.head = nn.Sequential(nn.Linear(32, 257))
        self.head[0].weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.torchs(self.embedding(tokens), is_causal=True, src_mask=self.mask(tokens))
        return self.head(self.own(self.several[1](self.several[0](self.hooked(x)))))

    def mask(self, tokens: Tensor) -> Tensor:
        return nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("weights", WEIGHTS)
@torch.no_grad()
def test_what_is_more_than_a_linear_layer_stays(weights: Any) -> None:
    model, tokens = Strange().eval(), torch.randint(0, 257, (2, 12))
    other = pack(model, weights)
    assert_close(other.logits(tokens), model.logits(tokens), TOLERANCE[weights])
    fixed = {name for name, module in other.named_modules() if isinstance(module, FixedLinear)}
    assert fixed == {"several.0", "head.0"}
    assert other.several[0] is other.several[1]
    assert other.embedding.weight.dtype == torch.float32
    assert other.parameter_count() == model.parameter_count()  # the tied one once


def test_layouts_are_for_large_ones_and_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = nn.Linear(12, 4), nn.Linear(256, 64)
    model = nn.Sequential(small, large)
    kinds = [type(layer) for layer in pack(model, "int8")]
    assert kinds == [PlainLinear, Int8Linear]  # the kernel cannot read rows of 12
    monkeypatch.setattr(packed, "_has_layout", lambda dtype: True)
    assert [type(layer) for layer in pack(model, "bf16")] == [PlainLinear, PackedLinear]
    monkeypatch.setattr(packed, "_has_layout", lambda dtype: False)
    plain = pack(model, "bf16")
    assert [type(layer) for layer in plain] == [PlainLinear, PlainLinear]
    assert plain[1].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_a_packed_model_is_neither_saved_nor_loaded_nor_moved(weights: Any) -> None:
    model = make("gpt")
    other = pack(model, weights)
    with pytest.raises(ModelError, match=r"'blocks.0.attention.q' is packed.*cannot be saved"):
        other.state_dict()
    with pytest.raises(ModelError, match="nothing can be loaded into it"):
        other.load_state_dict(model.state_dict())
    assert other.to("cpu").device == torch.device("cpu")
    with pytest.raises(ModelError, match=r"cannot become torch.float32"):
        other.float()
    with pytest.raises(ModelError, match=r"for torch.bfloat16 on cpu, it cannot become .* on meta"):
        other.to("meta")


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_a_compiler_can_look_through_it(weights: Any) -> None:
    model = pack(nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 300)), weights)
    x = torch.randn(1, 3, 256)
    with torch.no_grad():
        whole = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(whole(x), model(x))
