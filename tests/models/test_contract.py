"""What every model of the zoo keeps to. A new file in lmkit_models is tested by existing."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import pytest
import torch
from torch import Tensor

import lmkit_models
from lmkit.inference.sampling import Sampling
from lmkit.model import LMBase
from lmkit.prompts import Prompt
from lmkit.text import Batch, Byte, Sample, encode_prompt

# A model gets those of these measures that its constructor declares.
SMALL: dict[str, Any] = {
    "depth": 2,
    "layers": 2,
    "heads": 2,
    "kv_heads": 2,
    "head_dim": 8,
    "width": 32,
    "embedding_dim": 32,
    "nodes": 48,
    "window": 5,
    "max_len": 16,
}
# What else to try of a model's choices. Every model is tried as it comes, too, and, where it has
# switches (bool arguments), with all of them turned over.
CHOICES: dict[str, list[dict[str, Any]]] = {
    "GPT": [{"depth": 3, "window_pattern": "SL", "kv_heads": 1}, {"logit_softcap": None}],
    "GPT2": [{"init": "xavier", "intermediate_size": 40}, {"init": "kaiming", "vocab_size": 300}],
    "MLP": [{"layers": 1, "window": 1}],
    "GRULM": [{"layers": 1}],
}
PROMPTS = ["def f(x):", "", "import a module whose name is long", "x = 1", "ab"]
TEXTS = ["def f(x):\n  ", "x = 1\n", "import", "y"]


def zoo() -> list[Any]:
    """Every model class of lmkit_models with every set of choices."""
    cases = []
    for module in pkgutil.iter_modules(lmkit_models.__path__, "lmkit_models."):
        for name, cls in vars(importlib.import_module(module.name)).items():
            own = inspect.isclass(cls) and cls.__module__ == module.name
            if own and issubclass(cls, LMBase):
                declared = inspect.signature(cls).parameters.values()
                switched = {p.name: not p.default for p in declared if isinstance(p.default, bool)}
                choices = [{}, *CHOICES.get(name, [])] + ([switched] if switched else [])
                for number, choice in enumerate(choices):
                    cases.append(pytest.param((cls, choice), id=f"{name}-{number}"))
    return cases


def make(case: tuple[type[LMBase], dict[str, Any]], seed: int = 0) -> LMBase:
    cls, choices = case
    declared = inspect.signature(cls).parameters
    torch.manual_seed(seed)
    sizes = {name: value for name, value in SMALL.items() if name in declared}
    return cls(tokenizer=Byte(), **{**sizes, **choices})


@pytest.fixture(params=zoo())
def case(request: pytest.FixtureRequest) -> tuple[type[LMBase], dict[str, Any]]:
    return request.param


@pytest.fixture
def model(case: tuple[type[LMBase], dict[str, Any]]) -> LMBase:
    """Stirred, for weights that start at zero would hide what they are good for."""
    model = make(case).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def some_tokens(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1))


def rows_of(model: LMBase, texts: list[str]) -> list[Sample]:
    return [encode_prompt(model.need_tokenizer(), Prompt(text=text)) for text in texts]


def batch_of(model: LMBase, texts: list[str]) -> Batch:
    tokenizer = model.need_tokenizer()
    return Batch.of(rows_of(model, texts), tokenizer.eos, tokenizer.token_bytes)


def test_the_zoo_is_found() -> None:
    assert {"GPT2", "MLP", "GRULM"} <= {case.values[0][0].__name__ for case in zoo()}


@torch.no_grad()
def test_it_is_causal(model: LMBase) -> None:
    tokens = some_tokens(3, model.max_len)
    logits = model.logits(tokens)
    assert logits.shape[:2] == tokens.shape
    assert logits.shape[2] >= Byte().vocab_size
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 256
    again = model.logits(changed)
    torch.testing.assert_close(again[:, :9], logits[:, :9], atol=1e-6, rtol=1e-6)
    assert (again[:, 9] - logits[:, 9]).abs().max() > 1e-3


@torch.no_grad()
def test_cached_logits_equal_uncached(model: LMBase) -> None:
    cache = model.make_cache(3, model.max_len)
    if cache is None:
        pytest.skip("no cache")
    texts = [row.tolist() for row in some_tokens(3, model.max_len)]
    read = [0, 0, 0]
    # mixed prompts, single tokens, a row that rests, several tokens at once
    for counts in ([5, 2, 7], [1, 1, 1], [0, 1, 1], [1, 0, 0], [3, 4, 1], [1, 1, 1]):
        new = [text[n : n + count] for text, n, count in zip(texts, read, counts, strict=True)]
        padded = [tokens + [0] * (max(counts) - len(tokens)) for tokens in new]
        cache.begin(counts)
        logits = model.logits(torch.tensor(padded), cache=cache)
        cache.commit()
        for row, count in enumerate(counts):
            read[row] += count
            if count:
                last = logits[row, 0 if logits.shape[1] == 1 else count - 1]
                alone = model.logits(torch.tensor([texts[row][: read[row]]]))[0, -1]
                torch.testing.assert_close(last, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_packed_documents_do_not_see_each_other(model: LMBase) -> None:
    if not model.accepts_documents:
        pytest.skip("one sample a row")
    tokens = some_tokens(2, 16)
    documents = torch.tensor([[0] * 5 + [1] * 7 + [-1] * 4, [0] * 1 + [1] * 15], dtype=torch.int32)
    packed = model.logits(tokens, documents)
    for row, start, stop in [(0, 0, 5), (0, 5, 12), (1, 0, 1), (1, 1, 16)]:
        alone = model.logits(tokens[row : row + 1, start:stop])[0]
        torch.testing.assert_close(packed[row, start:stop], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_packed_loss_is_the_sum_of_its_samples(model: LMBase) -> None:
    alone = [model.loss(batch_of(model, [text])) for text in TEXTS]
    together = model.loss(batch_of(model, TEXTS))
    assert together.count == sum(loss.count for loss in alone)
    total = torch.stack([loss.total for loss in alone]).sum()
    torch.testing.assert_close(together.total, total, atol=1e-3, rtol=1e-5)
    if model.accepts_documents:
        tokenizer = model.need_tokenizer()
        first, *rest = rows_of(model, TEXTS)
        packed = Batch.packed([[first], rest], tokenizer.eos, tokenizer.token_bytes, model.max_len)
        torch.testing.assert_close(model.loss(packed).total, total, atol=1e-3, rtol=1e-5)


@torch.no_grad()
def test_its_loss_is_that_of_its_logits(model: LMBase) -> None:
    batch = batch_of(model, TEXTS)
    torch.testing.assert_close(
        model.loss(batch).total, LMBase.loss(model, batch).total, atol=1e-3, rtol=1e-5
    )


@torch.no_grad()
def test_its_state_is_all_of_it(model: LMBase) -> None:
    twin = type(model)(tokenizer=model.tokenizer, **model.init_kwargs).eval()
    tokens = some_tokens(2, 7)
    assert not torch.equal(twin.logits(tokens), model.logits(tokens))
    twin.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(twin.logits(tokens), model.logits(tokens))


def test_it_learns_a_batch(case: tuple[type[LMBase], dict[str, Any]]) -> None:
    model = make(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = batch_of(model, TEXTS)
    losses = []
    for _ in range(20):
        loss = model.loss(batch)
        (loss.total / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.total.item() / loss.count)
    assert losses[-1] < 0.8 * losses[0]


def test_every_parameter_learns(model: LMBase) -> None:
    model.loss(batch_of(model, [*TEXTS, "a text of 15 by"])).total.backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_every_parameter_has_one_role(model: LMBase) -> None:
    grouped = [id(p) for group in model.param_groups().values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert 0 < model.scaling_parameter_count() <= model.parameter_count()
    assert model.parameter_count() == sum(p.numel() for p in model.parameters())
    assert model.flops_per_token(model.max_len) >= 6 * model.scaling_parameter_count()


def test_generation_does_not_depend_on_company(model: LMBase) -> None:
    together = model.generate_prompts(PROMPTS, max_new_tokens=20)  # beyond the context of 16
    alone = [model.generate_prompts([prompt], max_new_tokens=20)[0] for prompt in PROMPTS]
    assert together == alone
    assert len(set(together)) > 1


def test_generation_with_and_without_cache_agree(
    model: LMBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=20, seed=3)
    cached = [done.ids for done in model.generate(PROMPTS, sampling)]
    monkeypatch.setattr(type(model), "make_cache", LMBase.make_cache)
    assert [done.ids for done in model.generate(PROMPTS, sampling)] == cached


def test_it_can_be_made_without_memory(case: tuple[type[LMBase], dict[str, Any]]) -> None:
    with torch.device("meta"):
        sketch = make(case)
    assert all(parameter.is_meta for parameter in sketch.parameters())
    assert sketch.parameter_count() == make(case).parameter_count()


def test_its_first_weights_follow_from_the_seed(
    case: tuple[type[LMBase], dict[str, Any]],
) -> None:
    first, same, other = (make(case, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@torch.no_grad()
def test_it_computes_in_bf16(model: LMBase) -> None:
    batch = batch_of(model, TEXTS)
    exact = model.loss(batch).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.loss(batch).total
        assert rounded != exact
    torch.testing.assert_close(rounded.float(), exact, atol=0, rtol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert len(model.generate_prompts(PROMPTS, max_new_tokens=20)) == len(PROMPTS)
