"""Rows enter as others leave, and never notice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lmkit.errors import ConfigError, ModelError
from lmkit.inference import Rows, Sampling, decode
from lmkit.nn import Cache, KVCache
from lmkit_models.gpt import GPT
from lmkit_models.recurrent import GRULM
from tests.inference.writing import written

VOCAB, MAX_LEN = 19, 12
OPTIONS: dict[str, Any] = {"max_len": MAX_LEN, "vocab_size": VOCAB}
SAMPLED = Sampling(temperature=1.0, max_new_tokens=15)
GREEDY = Sampling(max_new_tokens=15)

torch.manual_seed(0)
GPT_ = GPT(depth=2, width=16, head_dim=8, vocab_size=VOCAB, max_len=MAX_LEN).eval()
GRU = GRULM(width=8, layers=1, vocab_size=VOCAB, max_len=MAX_LEN).eval()
for parameter in GPT_.parameters():
    nn.init.normal_(parameter, std=0.5)  # so that all of the past matters
for parameter in GRU.parameters():
    nn.init.normal_(parameter)


def calls(row: int, token: int) -> list[int]:
    """A tool that answers some ids, with as many as they say."""
    return [16, 17, 18][: token % 4] if token % 5 == 0 else []


def texts(
    model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, **more: Any
) -> list[list[int]]:
    """What decode adds to each prompt."""
    return written(model, prompts, sampling, **{**OPTIONS, **more})


class Watched:
    """A model, and how many rows of how many tokens it was given at each step."""

    def __init__(self, model: Any = GPT_) -> None:
        self.model = model
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, tokens: Tensor, cache: Cache | None) -> Tensor:
        self.shapes.append(tuple(tokens.shape))
        return self.model(tokens, cache) if cache is not None else self.model(tokens)


@pytest.mark.parametrize("model", [GPT_, GRU])
@pytest.mark.parametrize("cached", [False, True])
@given(
    prompts=st.lists(
        st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20), min_size=1, max_size=5
    ),
    samples=st.integers(1, 3),
    slots=st.integers(1, 8),
    greedy=st.booleans(),
    tool=st.booleans(),
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=4),
)
@settings(max_examples=10, deadline=None)
def test_a_row_does_not_notice_how_many_are_written_at_once(
    model: Any,
    cached: bool,
    prompts: list[list[int]],
    samples: int,
    slots: int,
    greedy: bool,
    tool: bool,
    stop: set[int],
) -> None:
    sampling = GREEDY if greedy else SAMPLED
    options: dict[str, Any] = {"stop_ids": stop, "after": calls if tool else None}
    seeds = list(range(100, 100 + len(prompts) * samples))
    make = model.make_cache if cached else None
    watched = Watched(model)
    together = texts(
        watched,
        prompts,
        sampling,
        seeds=seeds,
        samples=samples,
        slots=slots,
        make_cache=make,
        **options,
    )
    assert max(rows for rows, _ in watched.shapes) <= slots
    for row in {0, len(together) // 2, len(together) - 1}:
        (alone,) = texts(model, [prompts[row // samples]], sampling, seeds=[seeds[row]], **options)
        assert together[row] == alone


def test_a_waiting_prompt_is_read_by_itself_and_takes_the_place_of_one_that_has_ended() -> None:
    watched = Watched()
    order = []
    rows = Rows([[1, 2, 3], [4, 5], [6, 7, 8, 9], [3], [2]], 4)
    for row, _, _ in decode(
        watched, rows, Sampling(), make_cache=GPT_.make_cache, slots=2, **OPTIONS
    ):
        order.append(row)
        if row == 0:
            rows.ended.add(0)  # after its first token
    # being read, a prompt gives its first token
    assert order == [0, 1, 2, *[2, 1] * 3, *[3, 4] * 4]
    assert watched.shapes == [(2, 3), (1, 4), *[(2, 1)] * 7]


def test_samples_that_enter_together_share_the_reading_of_their_prompt() -> None:
    watched = Watched()
    sampling = Sampling(temperature=1.0, max_new_tokens=2)
    texts(watched, [[1, 2, 3], [4, 5]], sampling, samples=4, slots=4, make_cache=GPT_.make_cache)
    assert watched.shapes == [(1, 3), (4, 1), (1, 2), (4, 1)]


def test_rows_that_the_caller_ends_before_they_enter_are_never_read() -> None:
    watched = Watched()
    new = texts(
        watched, [[1], [2], [3], [4]], GREEDY, slots=1, ended={0, 1, 3}, make_cache=GPT_.make_cache
    )
    assert [bool(row) for row in new] == [False, False, True, False]
    assert texts(watched, [[1], [2]], GREEDY, ended={0, 1}, make_cache=GPT_.make_cache) == [[], []]
    assert texts(watched, [], GREEDY, make_cache=GPT_.make_cache) == []


def test_where_rows_cannot_be_put_the_next_ones_wait_until_all_have_ended() -> None:
    class Own(KVCache):
        put = Cache.put

    def make(rows: int, length: int) -> Own:
        return Own(rows, length, layers=2)

    prompts = [[1, 2], [3], [4, 5], [6], [7]]
    free = texts(GPT_, prompts, SAMPLED)
    stop = {new[3] for new in free[:2]}
    watched = Watched()
    new = texts(watched, prompts, SAMPLED, slots=2, make_cache=make, stop_ids=stop)
    assert new == texts(GPT_, prompts, SAMPLED, stop_ids=stop)
    assert max(rows for rows, _ in watched.shapes) == 2


def test_a_made_cache_that_cannot_take_rows_reads_each_sample() -> None:
    class Own(KVCache):
        take = Cache.take

    def make(rows: int, length: int) -> Own:
        return Own(rows, length, layers=2)

    watched = Watched()
    new = texts(watched, [[1, 2], [3]], SAMPLED, samples=2, make_cache=make)
    assert new == texts(GPT_, [[1, 2], [3]], SAMPLED, samples=2)
    assert watched.shapes[0] == (4, 2)


def test_what_does_not_fit_together_is_named() -> None:
    with pytest.raises(ModelError, match="all prompts for 1 of 2 rows at once; give make_cache"):
        texts(GPT_, [[1], [2]], GREEDY, cache=GPT_.make_cache(2, MAX_LEN), slots=1)
    with pytest.raises(ConfigError, match="0 rows at once"):
        texts(GPT_, [[1]], GREEDY, slots=0)
