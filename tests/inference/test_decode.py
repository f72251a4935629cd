from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lmkit.errors import ModelError, NumericError
from lmkit.inference import Chosen, Rows, Sampling, context_start, decode
from lmkit.nn import Cache, KVCache, Mask, StateCache, attend
from lmkit_models.gpt import GPT
from tests.inference.writing import written

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

    def make_cache(self, rows: int, length: int = MAX_LEN) -> KVCache:
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

    def make_cache(self, rows: int, length: int = MAX_LEN) -> StateCache:
        return StateCache(rows)


torch.manual_seed(0)
ATTENDING, COUNTING = Attending(), Counting()
for parameter in ATTENDING.parameters():
    nn.init.normal_(parameter, std=0.7)  # so that all of the past matters


torch.manual_seed(1)
TINY = GPT(depth=2, width=32, head_dim=8, kv_heads=2, vocab_size=VOCAB, max_len=MAX_LEN).eval()
for parameter in TINY.parameters():
    nn.init.normal_(parameter, std=0.4)


def calls(row: int, token: int) -> list[int]:
    """A tool that answers some ids, with as many as they say."""
    return [20, 21, 22][: token % 4] if token % 3 == 0 else []


def texts(
    model: Any, prompts: Sequence[list[int]], sampling: Sampling, cache: bool | Cache, **more: Any
) -> list[list[int]]:
    """What decode adds to each prompt; with True for a cache, with one that the model makes."""
    memory = model.make_cache(len(prompts), MAX_LEN) if cache is True else cache or None
    options = {"max_len": MAX_LEN, "vocab_size": VOCAB, "cache": memory, **more}
    return written(model, prompts, sampling, **options)


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
@settings(max_examples=10)
def test_greedy_equals_the_plain_loop(
    model: nn.Module, cache: bool, prompts: list[list[int]]
) -> None:
    count = 2 * MAX_LEN  # past the context twice
    new = texts(model, prompts, Sampling(max_new_tokens=count), cache)
    assert new == [plainly(model, tokens, count) for tokens in prompts]


@pytest.mark.parametrize("model", [ATTENDING, COUNTING])
@given(prompts=st.lists(prompt, min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_cached_and_uncached_draw_the_same(
    model: nn.Module, prompts: list[list[int]], seed: int
) -> None:
    sampling = Sampling(
        temperature=1.0, top_p=0.9, repetition_penalty=1.3, max_new_tokens=20, seed=seed
    )
    assert texts(model, prompts, sampling, True) == texts(model, prompts, sampling, False)


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
    rows = Rows(prompts, SAMPLED.max_new_tokens)
    new: list[list[int]] = [[], [], []]
    memory = ATTENDING.make_cache(3) if cache else None
    for row, token, _ in decode(
        ATTENDING, rows, SAMPLED, max_len=MAX_LEN, vocab_size=VOCAB, cache=memory
    ):
        new[row].append(token)
        if row == 1 and len(new[1]) == 3:
            rows.ended.add(1)
    assert new == [free[0], free[1][:3], free[2]]


def test_nothing_is_computed_for_rows_that_have_ended() -> None:
    batches = []

    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        batches.append(len(tokens))
        return ATTENDING(tokens, cache)

    stop = texts(ATTENDING, [[1], [2, 3]], SAMPLED, False)[0][0]
    texts(forward, [[1], [2, 3]], SAMPLED, False, stop_ids=[stop])
    assert batches[:2] == [2, 1]


def test_padding_of_the_vocabulary_is_never_drawn() -> None:
    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        return torch.arange(30.0).expand(*tokens.shape, 30)

    assert texts(forward, [[0]], Sampling(max_new_tokens=3), False) == [[VOCAB - 1] * 3]


def test_the_penalty_knows_the_prompt_and_what_was_written_but_spares_stop_ids() -> None:
    favourites = torch.zeros(VOCAB)
    favourites[[7, 8, 9, 3]] = torch.tensor([4.0, 3.9, 3.8, 3.7])

    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        return favourites.expand(*tokens.shape, VOCAB)

    sampling = Sampling(repetition_penalty=2.0, max_new_tokens=3)
    assert texts(forward, [[3, 7]], sampling, False) == [[8, 9, 7]]
    assert texts(forward, [[3, 7]], sampling, False, stop_ids=[3]) == [[8, 9, 3]]


def test_it_streams() -> None:
    seen = []

    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        seen.append(tokens.shape)
        return ATTENDING(tokens, cache)

    steps = decode(forward, Rows([[1]], 20), SAMPLED, max_len=MAX_LEN, vocab_size=VOCAB)
    assert not seen
    next(steps)
    assert len(seen) == 1


def test_what_cannot_be_decoded_is_named() -> None:
    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        return torch.full((*tokens.shape, 5), torch.nan)

    with pytest.raises(ModelError, match="without tokens"):
        texts(ATTENDING, [[1], []], SAMPLED, False)
    with pytest.raises(ModelError, match="5 logits for 23 ids"):
        texts(forward, [[1]], SAMPLED, False)
    with pytest.raises(NumericError, match="row 0"):
        texts(forward, [[1]], SAMPLED, False, vocab_size=5)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("tool", [None, calls])
@given(
    prompts=st.lists(prompt, min_size=1, max_size=3),
    samples=st.integers(1, 3),
    seed=st.integers(0, 999),
    own_seeds=st.booleans(),
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=6),
)
@settings(max_examples=12)
def test_a_row_is_what_it_would_be_alone(
    cache: bool,
    tool: Any,
    prompts: list[list[int]],
    samples: int,
    seed: int,
    own_seeds: bool,
    stop: set[int],
) -> None:
    """Whatever rows there are beside it, when they end, and how often its prompt is asked."""
    rows = len(prompts) * samples
    seeds = [seed * rows + row for row in range(rows)] if own_seeds else None
    together = texts(
        TINY,
        prompts,
        SAMPLED,
        cache,
        samples=samples,
        seeds=seeds,
        after=tool,
        stop_ids=stop,
    )
    for row in {0, rows // 2, rows - 1}:
        asked = prompts[row // samples]
        if seeds is None:  # a row's draws go by its number: ask it as that row, all others ended
            ended = set(range(rows)) - {row}
            options: dict[str, Any] = {"ended": ended, "after": tool, "stop_ids": stop}
            alone = texts(TINY, [asked] * rows, SAMPLED, False, **options)[row]
        else:
            options = {"seeds": [seeds[row]], "after": tool, "stop_ids": stop}
            alone = texts(TINY, [asked], SAMPLED, False, **options)[0]
        assert together[row] == alone


@pytest.mark.parametrize("cache", [False, True])
def test_forced_ids_are_told_apart_count_and_are_read_at_once(cache: bool) -> None:
    shapes = []

    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        shapes.append(tokens.shape[1])
        return torch.arange(VOCAB).eq(tokens[..., None] + 1).float()  # one more than the last

    def answer(row: int, token: int) -> list[int]:
        return [10, 11] if token == 5 else []

    memory = ATTENDING.make_cache(1) if cache else None
    rows = Rows([[3]], 6, after=answer)
    options: dict[str, Any] = {"max_len": MAX_LEN, "vocab_size": VOCAB, "cache": memory}
    steps = list(decode(forward, rows, Sampling(), **options))
    ids = [(4, False), (5, False), (10, True), (11, True), (12, False), (13, False)]
    assert steps == [Chosen(0, *pair) for pair in ids]
    assert shapes == ([1, 1, 3, 1] if cache else [1, 2, 5, 6])


def test_forced_ids_end_with_the_tokens_that_are_left() -> None:
    new = texts(ATTENDING, [[1]], Sampling(max_new_tokens=4), True, after=lambda *_: [7, 8])
    assert new[0][1:3] == [7, 8]
    assert len(new[0]) == 4
    assert len(texts(ATTENDING, [[1]], Sampling(max_new_tokens=5), True, after=calls)[0]) == 5


def test_a_stop_id_is_the_last_of_its_row_and_calls_nothing() -> None:
    called = []

    def note(row: int, token: int) -> list[int]:
        called.append(token)
        return [7]

    first = texts(ATTENDING, [[1]], SAMPLED, True)[0][0]
    assert texts(ATTENDING, [[1]], SAMPLED, True, stop_ids=[first], after=note) == [[first]]
    assert called == []


@pytest.mark.parametrize("model", [ATTENDING, COUNTING])
def test_a_prompt_is_read_once_for_all_its_samples(model: nn.Module) -> None:
    shapes = []

    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        shapes.append(tuple(tokens.shape))
        return model(tokens, cache)

    memory = model.make_cache(2)  # type: ignore[operator]
    options: dict[str, Any] = {"max_len": MAX_LEN, "vocab_size": VOCAB}
    sampling = Sampling(temperature=1.0, max_new_tokens=3)
    written(forward, [[1, 2, 3], [4]], sampling, cache=memory, samples=3, **options)
    assert shapes == [(2, 3), (6, 1), (6, 1)]


@pytest.mark.parametrize("model", [ATTENDING, COUNTING])
def test_rows_that_have_ended_leave_the_cache(model: nn.Module) -> None:
    read = []

    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        read.append(len(tokens))
        return model(tokens, cache)

    rows = Rows([[1]] * 8, SAMPLED.max_new_tokens)
    memory = model.make_cache(8)  # type: ignore[operator]
    options: dict[str, Any] = {"max_len": MAX_LEN, "vocab_size": VOCAB}
    for row, _, _ in decode(forward, rows, SAMPLED, cache=memory, **options):
        if row == 7 and len(rows.ended) < 7:
            rows.ended.add(len(rows.ended))
    # one that has ended is still carried along; of eight, two are worth a copy
    assert read[:8] == [8, 8, 6, 6, 4, 3, 2, 1]


def test_a_cache_that_cannot_take_rows_still_decodes() -> None:
    class Own(KVCache):
        take = Cache.take

    prompts = [[1], [2, 3], [4, 5, 6], [7]]
    free = texts(ATTENDING, prompts, SAMPLED, False)
    stops = [free[0][2], free[3][5]]
    expected = texts(ATTENDING, prompts, SAMPLED, False, stop_ids=stops)
    memory = Own(4, MAX_LEN, layers=1)
    assert texts(ATTENDING, prompts, SAMPLED, memory, stop_ids=stops) == expected
    memory = Own(4, MAX_LEN, layers=1)
    with pytest.raises(ModelError, match="Own cannot copy a row .* take"):
        texts(ATTENDING, prompts, SAMPLED, memory, samples=2)


@pytest.mark.parametrize("model", [ATTENDING, COUNTING])
@given(text=st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=20), data=st.data())
@settings(max_examples=10)
def test_a_cache_goes_on_where_it_has_read_to(
    model: nn.Module, text: list[int], data: st.DataObject
) -> None:
    read = data.draw(st.integers(1, min(len(text) - 1, MAX_LEN)))
    memory = model.make_cache(1)  # type: ignore[operator]
    memory.begin([read])
    model(torch.tensor([text[:read]]), memory)
    memory.commit()
    widths = []

    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        widths.append(tokens.shape[1])
        return model(tokens, cache)

    new = texts(forward, [text], SAMPLED, memory)
    assert new == texts(model, [text], SAMPLED, False)
    if len(text) <= MAX_LEN:
        assert widths[0] == len(text) - read


def test_what_does_not_fit_together_is_named() -> None:
    memory = ATTENDING.make_cache(1)
    memory.begin([2])
    memory.commit()
    with pytest.raises(ModelError, match="has read a whole prompt"):
        texts(ATTENDING, [[1, 2]], SAMPLED, memory)
    with pytest.raises(ModelError, match="1 rows for 2 prompts"):
        texts(ATTENDING, [[1], [2]], SAMPLED, memory)
    with pytest.raises(ModelError, match="0 samples of a prompt"):
        texts(ATTENDING, [[1]], SAMPLED, False, samples=0)
    with pytest.raises(ModelError, match="2 seeds for 3 rows; give one a row"):
        texts(ATTENDING, [[1]], SAMPLED, True, samples=3, seeds=[1, 2])
