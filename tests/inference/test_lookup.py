"""A guess changes when ids come, never which."""

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
from lmkit.inference.lookup import Lookup, agreement
from lmkit.nn import Cache
from lmkit_models.gpt import GPT
from lmkit_models.recurrent import GRULM
from tests.inference.writing import written

VOCAB, MAX_LEN = 5, 16  # few ids, so that much is repeated
OPTIONS: dict[str, Any] = {"max_len": MAX_LEN, "vocab_size": VOCAB}

torch.manual_seed(0)
GPT_ = GPT(depth=2, width=16, head_dim=8, vocab_size=VOCAB, max_len=MAX_LEN).eval()
for parameter in GPT_.parameters():
    nn.init.normal_(parameter, std=0.5)


def calls(row: int, token: int) -> list[int]:
    """A tool that answers an id, now and then with what would have been guessed."""
    return [1, 2, 3] if token == 4 else []


def texts(model: Any, prompts: Sequence[Sequence[int]], **more: Any) -> list[list[int]]:
    """What decode adds to each prompt."""
    sampling = more.pop("sampling", Sampling(max_new_tokens=20))
    return written(model, prompts, sampling, **{**OPTIONS, **more})


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ([], []),
        ([1], []),
        ([1, 2, 3], []),
        ([1, 2, 3, 4, 1, 2], [3, 4, 1, 2]),
        ([7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], [3, 8, 1, 2]),  # three say more than two
        ([1, 2, 3, 9, 1, 2, 4, 9, 9, 1, 2], [4, 9, 9, 1]),  # the last precedent counts
        ([5, 5, 5], [5, 5, 5, 5]),  # a loop goes on
        ([1, 2, 1, 2, 1], [2, 1, 2, 1]),
    ],
)
def test_what_followed_the_last_time_is_guessed(text: list[int], guess: list[int]) -> None:
    assert Lookup(text).guess(4) == guess
    growing: list[int] = []
    lookup = Lookup(growing)
    for token in text:
        growing.append(token)
        lookup.guess(2)
    assert lookup.guess(4) == guess


def test_agreement_ends_at_the_first_difference() -> None:
    assert [agreement([1, 2, 3], came) for came in ([1, 2, 3, 4], [1, 9, 3], [], [1, 2])] == [
        3,
        1,
        0,
        2,
    ]


@pytest.mark.parametrize("cached", [False, True])
@given(
    prompts=st.lists(
        st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20), min_size=1, max_size=4
    ),
    lookup=st.integers(1, 9),
    tool=st.booleans(),
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=1),
    slots=st.none() | st.integers(1, 3),
    samples=st.integers(1, 2),
)
@settings(max_examples=12, deadline=None)
def test_the_ids_are_those_without(
    cached: bool,
    prompts: list[list[int]],
    lookup: int,
    tool: bool,
    stop: set[int],
    slots: int | None,
    samples: int,
) -> None:
    options: dict[str, Any] = {"stop_ids": stop, "after": calls if tool else None}
    options |= {"samples": samples, "make_cache": GPT_.make_cache if cached else None}
    plain = texts(GPT_, prompts, **options)
    assert texts(GPT_, prompts, lookup=lookup, slots=slots, **options) == plain


@pytest.mark.parametrize("cached", [False, True])
def test_a_text_that_repeats_itself_takes_fewer_steps(cached: bool) -> None:
    widths = []

    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        widths.append(tokens.shape[1])
        return nn.functional.one_hot((tokens + 1) % VOCAB, VOCAB).float()  # counts in a circle

    options: dict[str, Any] = {"sampling": Sampling(max_new_tokens=10)}
    options["make_cache"] = GPT_.make_cache if cached else None
    expected = [[(4 + step) % VOCAB for step in range(10)]]
    assert texts(forward, [[0, 1, 2, 3]], **options) == expected
    assert len(widths) == 10
    widths.clear()
    assert texts(forward, [[0, 1, 2, 3]], lookup=4, **options) == expected
    # 4, 0, 1, and now that 0, 1 has been seen before: four guessed and one more, then the last two
    assert len(widths) == 5
    assert not cached or widths == [4, 1, 1, 5, 2]


def test_a_row_that_the_caller_ends_gets_no_more_of_a_guess() -> None:
    def forward(tokens: Tensor, cache: Cache | None) -> Tensor:
        return torch.eye(VOCAB)[3].expand(*tokens.shape, VOCAB)

    rows, ids = Rows([[3, 3, 3]], 20), []
    for _, token, _ in decode(forward, rows, Sampling(), lookup=9, **OPTIONS):
        ids.append(token)
        if len(ids) == 4:
            rows.ended.add(0)
    assert ids == [3] * 4


def test_what_cannot_be_guessed_is_refused() -> None:
    for sampling in (Sampling(temperature=1.0), Sampling(repetition_penalty=1.1)):
        with pytest.raises(ConfigError, match="temperature 0 and repetition_penalty 1"):
            texts(GPT_, [[1]], sampling=sampling, lookup=3)
    with pytest.raises(ConfigError, match="lookup is -1"):
        texts(GPT_, [[1]], lookup=-1)
    gru = GRULM(width=8, layers=1, vocab_size=VOCAB)
    with pytest.raises(ModelError, match="StateCache cannot forget .* rewind"):
        texts(gru, [[1]], lookup=3, make_cache=gru.make_cache)

    def last_only(tokens: Tensor, cache: Cache | None) -> Tensor:
        return GPT_(tokens, cache)[:, -1:]

    with pytest.raises(ModelError, match="last token only; let its head read cache.last"):
        texts(last_only, [[1, 1, 1, 1]], lookup=3, make_cache=GPT_.make_cache)
