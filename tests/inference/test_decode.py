from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lmkit.errors import ModelError, NumericError
from lmkit.inference import Sampling, context_start, decode
from lmkit.nn import Cache, KVCache, Mask, StateCache, attend

VOCAB, WIDTH, MAX_LEN = 23, 16, 12
SAMPLED = Sampling(temperature=1.0, max_new_tokens=20, seed=3)
prompt = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30)


class Attending(nn.Module):
    """One layer of attention with learned positions; its logits have 3 columns of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCAB, WIDTH)
        self.position = nn.Embedding(MAX_LEN, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB + 3)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        assert isinstance(cache, KVCache | None)
        length = tokens.shape[1]
        x = self.token(tokens)
        x = x + self.position(torch.arange(length) if cache is None else cache.positions)
        q, k, v = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        if cache is None:
            mask = Mask.causal(length, tokens.device)
        else:
            k, v, mask = cache.append(0, k, v)
        return self.head(x + attend(q, k, v, mask=mask).transpose(1, 2).flatten(2))

    def make_cache(self, rows: int) -> KVCache:
        return KVCache(rows, MAX_LEN, layers=1)


class Counting(nn.Module):
    """A state that is the sum of all token vectors read; gives the last token's logits only."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCAB, WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        sums = self.token(tokens).cumsum(1)
        if cache is None:
            return self.head(sums.tanh())
        sums = sums + cache.recall("sum", like=sums[:, 0])[:, None]
        cache.remember("sum", sums)
        return self.head(cache.last(sums).tanh())

    def make_cache(self, rows: int) -> StateCache:
        return StateCache(rows)


torch.manual_seed(0)
ATTENDING, COUNTING = Attending(), Counting()
for parameter in ATTENDING.parameters():
    nn.init.normal_(parameter, std=0.7)  # so that all of the past matters


def texts(
    model: nn.Module, prompts: Sequence[list[int]], sampling: Sampling, cache: bool, **more: object
) -> list[list[int]]:
    """What decode adds to each prompt."""
    new: list[list[int]] = [[] for _ in prompts]
    memory = model.make_cache(len(prompts)) if cache else None  # type: ignore[operator]
    options = {"max_len": MAX_LEN, "vocab_size": VOCAB, "cache": memory, **more}
    for row, token, _ in decode(model, prompts, sampling, **options):  # type: ignore[arg-type]
        new[row].append(token)
    return new


def plainly(model: nn.Module, tokens: list[int], count: int) -> list[int]:
    """Greedy decoding as one would write it down first."""
    tokens = list(tokens)
    for _ in range(count):
        context = tokens[context_start(len(tokens), MAX_LEN) :]
        with torch.no_grad():
            logits = model(torch.tensor([context]))[0, -1, :VOCAB]
        tokens.append(int(logits.argmax()))
    return tokens[-count:]


@given(length=st.integers(1, 300), max_len=st.integers(1, 40))
def test_the_context_is_as_long_as_the_rule_says(length: int, max_len: int) -> None:
    start = context_start(length, max_len)
    hop = max(1, max_len // 2)
    assert 1 <= length - start <= max_len
    assert start % hop == 0
    assert start == 0 if length <= max_len else length - start + hop > max_len


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("model", [ATTENDING, COUNTING])
@given(prompts=st.lists(prompt, min_size=1, max_size=4))
@settings(max_examples=15)
def test_greedy_equals_the_plain_loop(
    model: nn.Module, cache: bool, prompts: list[list[int]]
) -> None:
    count = 2 * MAX_LEN  # past the context twice
    new = texts(model, prompts, Sampling(max_new_tokens=count), cache)
    assert new == [plainly(model, tokens, count) for tokens in prompts]


@pytest.mark.parametrize("model", [ATTENDING, COUNTING])
@given(prompts=st.lists(prompt, min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_cached_and_uncached_draw_the_same(
    model: nn.Module, prompts: list[list[int]], seed: int
) -> None:
    sampling = Sampling(
        temperature=1.0, top_p=0.9, repetition_penalty=1.3, max_new_tokens=20, seed=seed
    )
    assert texts(model, prompts, sampling, True) == texts(model, prompts, sampling, False)


@pytest.mark.parametrize("cache", [False, True])
@given(
    first=prompt, others=st.lists(prompt, min_size=1, max_size=3), stop=st.sets(st.integers(0, 5))
)
@settings(max_examples=15)
def test_a_row_does_not_depend_on_its_neighbours(
    cache: bool, first: list[int], others: list[list[int]], stop: set[int]
) -> None:
    alone = texts(ATTENDING, [first], SAMPLED, cache, stop_ids=stop)
    among = texts(ATTENDING, [first, *others], SAMPLED, cache, stop_ids=stop)
    assert among[0] == alone[0]


@pytest.mark.parametrize("cache", [False, True])
def test_a_row_ends_with_a_stop_id(cache: bool) -> None:
    prompts = [[1], [2, 3], [4, 5, 6]]
    free = texts(ATTENDING, prompts, SAMPLED, cache)
    stop = free[1][4]
    cut = [new[: new.index(stop) + 1] if stop in new else new for new in free]
    assert texts(ATTENDING, prompts, SAMPLED, cache, stop_ids=[stop]) == cut


@pytest.mark.parametrize("cache", [False, True])
def test_the_caller_may_end_rows(cache: bool) -> None:
    prompts = [[1], [2, 3], [4, 5, 6]]
    free = texts(ATTENDING, prompts, SAMPLED, cache)
    ended: set[int] = set()
    new: list[list[int]] = [[], [], []]
    memory = ATTENDING.make_cache(3) if cache else None
    for row, token, _ in decode(
        ATTENDING, prompts, SAMPLED, max_len=MAX_LEN, vocab_size=VOCAB, cache=memory, ended=ended
    ):
        new[row].append(token)
        if row == 1 and len(new[1]) == 3:
            ended.add(1)
    assert new == [free[0], free[1][:3], free[2]]


def test_nothing_is_computed_for_rows_that_have_ended() -> None:
    batches = []

    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        batches.append(len(tokens))
        return ATTENDING(tokens, cache)

    stop = texts(ATTENDING, [[1], [2, 3]], SAMPLED, False)[0][0]
    texts(forward, [[1], [2, 3]], SAMPLED, False, stop_ids=[stop])  # type: ignore[arg-type]
    assert batches[:2] == [2, 1]


def test_padding_of_the_vocabulary_is_never_drawn() -> None:
    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        return torch.arange(30.0).expand(*tokens.shape, 30)

    assert texts(forward, [[0]], Sampling(max_new_tokens=3), False) == [[VOCAB - 1] * 3]  # type: ignore[arg-type]


def test_the_penalty_knows_the_prompt_and_what_was_written_but_spares_stop_ids() -> None:
    favourites = torch.zeros(VOCAB)
    favourites[[7, 8, 9, 3]] = torch.tensor([4.0, 3.9, 3.8, 3.7])

    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        return favourites.expand(*tokens.shape, VOCAB)

    sampling = Sampling(repetition_penalty=2.0, max_new_tokens=3)
    assert texts(forward, [[3, 7]], sampling, False) == [[8, 9, 7]]  # type: ignore[arg-type]
    assert texts(forward, [[3, 7]], sampling, False, stop_ids=[3]) == [[8, 9, 3]]  # type: ignore[arg-type]


def test_it_streams() -> None:
    seen = []

    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        seen.append(tokens.shape)
        return ATTENDING(tokens, cache)

    steps = decode(forward, [[1]], SAMPLED, max_len=MAX_LEN, vocab_size=VOCAB)
    assert not seen
    next(steps)
    assert len(seen) == 1


def test_what_cannot_be_decoded_is_named() -> None:
    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        return torch.full((*tokens.shape, 5), torch.nan)

    with pytest.raises(ModelError, match="without tokens"):
        texts(ATTENDING, [[1], []], SAMPLED, False)
    with pytest.raises(ModelError, match="5 logits for 23 ids"):
        texts(forward, [[1]], SAMPLED, False)  # type: ignore[arg-type]
    with pytest.raises(NumericError, match="row 0"):
        texts(forward, [[1]], SAMPLED, False, vocab_size=5)  # type: ignore[arg-type]
