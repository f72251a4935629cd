"""gpt.GPT: its tricks, its cache, its documents and its parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmkit.errors import ModelError
from lmkit.model import token_loss
from lmkit.optim.optimizers import OptimizerSet
from lmkit.text.batch import Batch
from lmkit_models.gpt import GPT

VOCAB = 50
TINY: dict[str, Any] = {"depth": 3, "width": 32, "head_dim": 8, "max_len": 48, "vocab_size": VOCAB}
EVERYTHING = {"kv_heads": 2, "window_pattern": "SL", "window": 5}
OFF: dict[str, Any] = {
    "qk_norm": False,
    "key_offset": False,
    "logit_softcap": None,
    "value_embeddings": False,
    "residual_scalars": False,
    "embedding_scalars": False,
    "zero_init": False,
}
VARIANTS = [
    {},
    EVERYTHING,
    OFF,
    {"tied_head": True},
    *({key: value} for key, value in OFF.items()),
]


def model(**changes: Any) -> GPT:
    """A tiny one that is not at its start, where half of it multiplies by zero."""
    torch.manual_seed(0)
    gpt = GPT(**{**TINY, **changes})
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return gpt.eval()


def some_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(1))


def some_batch(rows: int = 2, width: int = 12) -> Batch:
    tokens = some_tokens(rows, width + 1)
    weights = torch.ones(rows, width)
    weights[0, :3] = 0
    return Batch(tokens[:, :-1], tokens[:, 1:], weights, None, count=rows * width - 3, bytes=0)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_causal_and_cached_equals_uncached(changes: dict[str, Any]) -> None:
    gpt = model(**changes)
    tokens = some_tokens(2, 20)
    whole = gpt(tokens)
    assert whole.shape == (2, 20, VOCAB)
    torch.testing.assert_close(gpt(tokens[:, :9]), whole[:, :9], atol=1e-5, rtol=1e-5)
    cache = gpt.make_cache(2, 20)
    for counts in [(7, 3), (1, 1), (1, 5), (4, 1), (1, 1)]:
        begins = list(cache.lengths)
        cache.begin(counts)
        new = torch.zeros(2, max(counts), dtype=torch.long)
        for row, (begin, count) in enumerate(zip(begins, counts, strict=True)):
            new[row, :count] = tokens[row, begin : begin + count]
        logits = gpt(new, cache=cache)
        cache.commit()
        assert logits.shape == (2, 1, VOCAB)
        for row, length in enumerate(cache.lengths):
            torch.testing.assert_close(logits[row, 0], whole[row, length - 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, EVERYTHING, OFF], ids=["plain", "everything", "off"])
def test_packed_equals_alone(changes: dict[str, Any]) -> None:
    gpt = model(**changes)
    tokens = some_tokens(2, 30)
    documents = torch.zeros(2, 30, dtype=torch.int32)
    documents[0, 7:], documents[0, 19:], documents[1, 25:] = 1, 2, -1
    packed = gpt(tokens, documents=documents)
    for row, start, stop in [(0, 0, 7), (0, 7, 19), (0, 19, 30), (1, 0, 25)]:
        alone = gpt(tokens[row : row + 1, start:stop])[0]
        torch.testing.assert_close(packed[row, start:stop], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_the_fused_loss_is_the_plain_one(changes: dict[str, Any]) -> None:
    gpt, batch = model(**changes), some_batch()
    loss = gpt.loss(batch)
    expected = token_loss(gpt(batch.inputs), batch.targets, batch.weights)
    torch.testing.assert_close(loss.total, expected, atol=1e-4, rtol=1e-5)
    assert loss.count == batch.count


@pytest.mark.parametrize("changes", VARIANTS[1:], ids=str)
def test_each_trick_changes_the_model(changes: dict[str, Any]) -> None:
    tokens = some_tokens(1, 16)
    assert not torch.allclose(model(**changes)(tokens), model()(tokens))


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_parameter_learns(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    gpt = GPT(**{**TINY, **changes})
    before = {name: p.detach().clone() for name, p in gpt.named_parameters()}
    named = {id(p): name for name, p in gpt.named_parameters()}
    groups = {
        role: [(named[id(p)], p) for p in group] for role, group in gpt.param_groups().items()
    }
    optimizers = OptimizerSet.build(groups, gpt.default_optimizers(batch_tokens=24, steps=3))
    losses = []
    for _ in range(8):  # without a warm-up the sixth may be a bad one
        losses.append(gpt.loss(some_batch()).total)
        losses[-1].backward()
        assert all(p.grad is not None for p in gpt.parameters())
        optimizers.step()
        optimizers.zero_grad()
    assert losses[-1] < losses[0]
    still = [name for name, p in gpt.named_parameters() if torch.equal(p, before[name])]
    assert not still


def test_bf16_stays_close_and_the_logits_are_float32() -> None:
    gpt, tokens = model(**EVERYTHING), some_tokens(2, 32)
    with torch.autocast("cpu", torch.bfloat16):
        logits, hidden = gpt(tokens), gpt.hidden(tokens)
    assert logits.dtype == torch.float32
    assert hidden.dtype == torch.bfloat16
    exact = gpt(tokens)
    assert (logits - exact).abs().mean() < 0.02 * exact.abs().mean()


# dynamo itself makes an instance of each autograd.Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("documents", "depth"), [(False, 2), (True, 1)])
def test_it_compiles_in_one_graph(documents: bool, depth: int) -> None:
    gpt, tokens = model(**EVERYTHING, depth=depth), some_tokens(2, 16)
    given = torch.arange(16).div(5, rounding_mode="floor").expand(2, 16) if documents else None
    compiled = torch.compile(gpt.hidden, backend="aot_eager", fullgraph=True)
    grads = []
    for hidden in (compiled, gpt.hidden):
        with torch.autocast("cpu", torch.bfloat16):
            hidden(tokens, documents=given).float().square().sum().backward()
        grads.append([p.grad for p in gpt.parameters() if p.grad is not None])
        gpt.zero_grad()
    torch.testing.assert_close(*grads)


def test_depth_is_the_one_dial() -> None:
    with torch.device("meta"):
        gpt = GPT(depth=20, max_len=2048, vocab_size=65_530)
    assert gpt.head.weight.shape == (65_536, 1280)
    assert gpt.device.type == "meta"
    layer = 12 * 1280**2
    assert gpt.scaling_parameter_count() == 20 * layer + 65_536 * 1280 + 10 * 10 * 12
    attention = 12 * 20 * 1280 * 2048
    assert gpt.flops_per_token(2048) == 6 * gpt.scaling_parameter_count() + attention
    with torch.device("meta"):
        windowed = GPT(depth=20, max_len=2048, vocab_size=65_530, window_pattern="SSSL")
    assert windowed.windows[:4] == [512, 512, 512, None]
    assert windowed.flops_per_token(2048) < gpt.flops_per_token(2048)


def test_initialisation_depends_on_the_seed_alone() -> None:
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        models.append(GPT(**TINY).state_dict())
    same = [torch.equal(models[0][name], models[1][name]) for name in models[0]]
    assert all(same)
    assert not torch.equal(models[0]["head.weight"], models[2]["head.weight"])


def test_the_last_layer_has_value_embeddings_and_sees_all() -> None:
    for depth in (3, 4):
        gpt = GPT(**{**TINY, "depth": depth, "window_pattern": "S", "window": 4})
        assert gpt.windows == [4] * (depth - 1) + [None]
        owners = [name for name, _ in gpt.named_parameters() if "value_embedding" in name]
        assert f"blocks.{depth - 1}.attention.value_embedding.weight" in owners
        assert len(owners) == 2


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"width": 30}, "width 30 is no multiple"),
        ({"head_dim": 7, "width": 28}, "head_dim 7"),
        ({"kv_heads": 3}, "kv_heads 3 does not divide the 4 heads"),
        ({"window_pattern": "SXL"}, "window_pattern 'SXL'"),
        ({"window_pattern": ""}, "window_pattern ''"),
        ({"vocab_size": None}, "no tokenizer"),
    ],
)
def test_measures_that_do_not_fit(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ModelError, match=what):
        GPT(**{**TINY, **changes})


def test_a_row_longer_than_the_context() -> None:
    with pytest.raises(ModelError, match="49 tokens for a context of 48"):
        model()(some_tokens(1, 49))


# depth -> Muon's rate and decay, then the rates of head, embeddings, value embeddings and the two
# scalars: by base_train.py's and gpt.py's own lines (nanochat at 92d63d4) for 32,768 entries
NANOCHAT_RATES = {
    12: (0.02, 0.28, 0.008, 0.3, 0.15, 0.005, 0.5),
    20: (0.028284, 0.100188, 0.008764, 0.32863, 0.16432, 0.007071, 0.70711),
    24: (0.028284, 0.059738, 0.008, 0.3, 0.15, 0.007071, 0.70711),
}
NANOCHAT_LENGTH = {12: (2**19, 2520), 20: (2**20, 4980), 24: (2**20, 8352)}


@pytest.mark.parametrize("depth", NANOCHAT_RATES)
def test_the_rates_are_nanochats_from_the_length_on_that_it_swept(depth: int) -> None:
    with torch.device("meta"):
        gpt = GPT(depth=depth, vocab_size=32_768)
    muon, *others = gpt.default_optimizers(*NANOCHAT_LENGTH[depth])
    found = [muon["lr"], muon["weight_decay"], *(spec["lr"] for spec in others)]
    assert found == pytest.approx(NANOCHAT_RATES[depth], rel=1e-4, abs=1e-6)
    assert [spec["weight_decay"] for spec in others] == [0.01, 0.001, 0.01, 0.05, 0.0]


def test_d20_has_nanochats_parameters() -> None:
    """All but the 26 of smear and backout, which this model does not have."""
    with torch.device("meta"):
        gpt = GPT(depth=20, vocab_size=32_768)
    assert gpt.scaling_parameter_count() == 393_217_200 + 41_943_040
    assert gpt.parameter_count() == 896_533_746 - 26


def test_rates_go_with_the_root_of_the_batch_and_down_with_the_length() -> None:
    gpt = GPT(**TINY)

    def rate(batch: int, steps: int) -> float:
        return gpt.default_optimizers(batch, steps)[0]["lr"]

    assert rate(4 * 4096, 100) / rate(4096, 400) == pytest.approx(2)
    assert rate(4096, 2**10 * 100) / rate(4096, 100) == pytest.approx(2**-3)
    assert rate(4096, 366) == pytest.approx(0.02 * 0.676, rel=1e-3)  # the quickstart's
    assert rate(2**19, 100_000) == rate(2**19, 50_000) == 0.02
