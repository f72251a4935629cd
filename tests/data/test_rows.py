from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmkit.data import Rows, TokenStore
from lmkit.data import rows as rows_module
from lmkit.data.layout import TextLayout
from lmkit.errors import DataError
from lmkit.text import Batch, Byte, Tokenizer

END = 256
Make = Callable[..., TokenStore]
TEXTS = ["".join(chr(97 + (i * j) % 26) for i in range(5 + 13 * j % 90)) for j in range(40)]
PROMPTS = [{"prompt": "q" * (1 + i % 5), "truth": "r" * (1 + i % 7)} for i in range(30)]


class TwoMarks(Byte):
    """bos 257 opens, eos 256 ends."""

    bos = 257

    def __init__(self) -> None:
        super().__init__()
        self.special_tokens = {**self.special_tokens, "<bos>": 257}

    def vocabulary(self) -> list[bytes]:
        return [*super().vocabulary(), b"<bos>"]


def rows_of(
    store: TokenStore, width: int = 16, seed: int | None = 1, tokenizer: Tokenizer | None = None,
    **options: bool,
) -> Rows:  # fmt: skip
    return Rows(store, width, seed=seed, tokenizer=tokenizer or Byte(), **options)


def assert_equal(one: Batch, other: Batch) -> None:
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.targets, other.targets)
    assert torch.equal(one.weights, other.weights)
    assert (one.documents is None) == (other.documents is None)
    if one.documents is not None:
        assert torch.equal(one.documents, other.documents)
    assert (one.count, one.bytes) == (other.count, other.bytes)


class TestPureFunction:
    @pytest.fixture(params=["text", "prompts"])
    def make_rows(self, request: pytest.FixtureRequest, store_of: Make) -> Callable[[], Rows]:
        store = store_of(TEXTS if request.param == "text" else PROMPTS)
        return lambda: rows_of(store)

    def test_any_stretch_in_any_order_is_part_of_the_same_stream(
        self, make_rows: Callable[[], Rows], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rows_module, "TextLayout", partial(TextLayout, block_tokens=300))
        whole = make_rows().batch(0, 400)
        assert make_rows().rows_per_epoch * 3 < 400  # the stretch spans epochs
        rows = make_rows()
        for first, count in [(123, 17), (0, 1), (399, 1), (5, 100), (40, 0), (123, 17)]:
            assert_equal(rows.batch(first, count), whole.rows(first, first + count))

    def test_a_new_process_would_go_on_at_any_position(self, make_rows: Callable[[], Rows]) -> None:
        whole = make_rows().batch(0, 120)
        for position in (1, 50, 119):
            assert_equal(make_rows().batch(position, 120 - position), whole.rows(position, 120))

    def test_far_away_costs_no_replay(self, make_rows: Callable[[], Rows]) -> None:
        assert len(make_rows().batch(10**12, 2)) == 2

    def test_seeds_differ(self, store_of: Make) -> None:
        store = store_of(TEXTS)
        one, other = rows_of(store, seed=1), rows_of(store, seed=2)
        assert not torch.equal(one.batch(0, 50).inputs, other.batch(0, 50).inputs)


class TestText:
    @given(
        st.lists(st.text("abcdefgh ", min_size=1, max_size=120), min_size=1, max_size=30),
        st.integers(3, 20),
        st.sampled_from([None, 0, 7]),
        st.integers(0, 2),
    )
    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_every_token_is_a_target_once_an_epoch(
        self, store_of: Make, texts: list[str], width: int, seed: int | None, epoch: int
    ) -> None:
        store = store_of(texts)
        if store.token_count < width:
            return
        rows = rows_of(store, width, seed)
        batch = rows.batch(epoch * rows.rows_per_epoch, rows.rows_per_epoch)
        trained = batch.targets[batch.weights != 0].tolist()
        ends = trained.count(END)
        assert Counter(trained) - Counter({END: ends}) == Counter("".join(texts).encode())
        assert ends <= len(texts)
        assert (batch.inputs[:, 0] == END).all()  # every row begins with bos
        assert batch.count == len(trained)
        assert batch.bytes == len("".join(texts))
        assert set(batch.weights.unique().tolist()) <= {0.0, 1.0}

    def test_a_bos_is_trained_where_a_document_ends_and_only_there(self, store_of: Make) -> None:
        store = store_of(["abc", "defghijklmnop", "q"])
        (row,) = rows_of(store, 20, None).batch(0, 1).targets.tolist()
        batch = rows_of(store, 20, None).batch(0, 1)
        assert bytes(token % 256 for token in row).split(b"\0")[:3] == [
            b"defghijklmnop",
            b"abc",
            b"q",
        ]
        assert batch.weights.tolist() == [[1.0] * 20]
        cut = rows_of(store, 5, None)
        batch = cut.batch(0, cut.rows_per_epoch)
        ends = batch.inputs[:, 1:] == END
        for row, place in ends.nonzero().tolist():
            last = chr(batch.inputs[row, place])
            assert batch.weights[row, place] == (last in "cpq")
        assert ends.any()

    def test_the_end_of_the_last_document_of_a_row_is_trained_where_there_is_room(
        self, store_of: Make
    ) -> None:
        batch = rows_of(store_of(["abc"]), 6, None).batch(0, 1)
        assert batch.inputs.tolist() == [[END, 97, 98, 99, END, END]]
        assert batch.targets.tolist() == [[97, 98, 99, END, END, END]]
        assert batch.weights.tolist() == [[1, 1, 1, 1, 0, 0]]
        assert (batch.count, batch.bytes) == (4, 3)

    def test_bos_and_eos_of_their_own(self, tmp_path, store_of: Make) -> None:
        from lmkit.data import InMemory, prepare

        store = prepare(InMemory(["abc", "d"]), TwoMarks(), "all", max_len=8)
        batch = rows_of(store, 8, None, TwoMarks()).batch(0, 1)
        assert batch.inputs.tolist() == [[257, 97, 98, 99, 256, 257, 100, 256]]
        assert batch.targets.tolist() == [[97, 98, 99, 256, 257, 100, 256, 257]]

    def test_documents_are_numbered_only_if_isolated(self, store_of: Make) -> None:
        store = store_of(["abc", "de"])
        assert rows_of(store, 10, None).batch(0, 1).documents is None
        batch = rows_of(store, 10, None, isolate=True).batch(0, 1)
        numbers = batch.documents
        assert numbers is not None
        assert numbers[0, :7].tolist() == [0, 0, 0, 0, 1, 1, 1]
        assert not set(numbers[0, 7:].tolist()) & {0, 1}
        assert numbers[0, -1] == -1

    def test_less_text_than_a_row_is_an_error_but_enough_to_validate(self, store_of: Make) -> None:
        store = store_of(["abc"])
        with pytest.raises(DataError, match="3 tokens are less than a row of 16; give more text"):
            rows_of(store, 16)
        assert len(rows_of(store, 16, None).batch(0, 1)) == 1
        with pytest.raises(DataError, match="a row of 2 tokens is too short"):
            rows_of(store, 2)


class TestPrompts:
    def test_packed_samples_are_whole_numbered_and_masked(self, store_of: Make) -> None:
        store = store_of(PROMPTS, include_prompts=False)
        rows = rows_of(store, 24)
        batch = rows.batch(0, rows.rows_per_epoch)
        assert batch.documents is not None
        seen: Counter[tuple[str, int]] = Counter()
        for inputs, weights, numbers in zip(
            batch.inputs, batch.weights, batch.documents, strict=True
        ):
            for number in set(numbers.tolist()) - {-1}:
                here = numbers == number
                text = "".join(map(chr, inputs[here].tolist()))
                seen[text.strip(chr(END)), int(weights[here].sum())] += 1
        assert seen == Counter(
            (prompt["prompt"] + prompt["truth"], len(prompt["truth"]) + 1) for prompt in PROMPTS
        )
        trained = batch.targets[batch.weights != 0].tolist()
        assert Counter(trained) == {
            END: 30,
            ord("r"): sum(len(prompt["truth"]) for prompt in PROMPTS),
        }
        assert batch.count == len(trained)

    def test_one_a_row_for_models_that_cannot_isolate(self, store_of: Make) -> None:
        rows = rows_of(store_of(PROMPTS), 24, None, pack=False)
        assert rows.rows_per_epoch == 30
        batch = rows.batch(0, 30)
        assert batch.documents is None
        for prompt, row, weights in zip(PROMPTS, batch.inputs, batch.weights, strict=True):
            sample = [END, *(prompt["prompt"] + prompt["truth"]).encode(), END]
            assert row[: len(sample)].tolist() == sample
            assert weights.tolist() == [1.0] * (len(sample) - 1) + [0.0] * (25 - len(sample))

    def test_longer_than_a_row_is_an_error(self, store_of: Make) -> None:
        store = store_of(PROMPTS, max_len=32)
        with pytest.raises(DataError, match="a prompt has 12 tokens, a row takes 8; prepare"):
            rows_of(store, 8)


def test_a_batch_without_rows(store_of: Make) -> None:
    batch = rows_of(store_of(TEXTS), 16).batch(5, 0)
    assert batch.inputs.shape == (0, 16)
    assert (batch.count, batch.bytes) == (0, 0)


def test_large_vocabularies_keep_their_ids(store_of: Make) -> None:
    store = store_of(["abcdef"] * 9)
    store.tokens = lambda document, start, stop: np.full(stop - start, 69_999, np.uint32)
    tokenizer = Byte()
    tokenizer.token_bytes = np.ones(70_000, np.int32)
    assert 69_999 in rows_of(store, 8, tokenizer=tokenizer).batch(0, 2).targets


def test_what_a_batch_is_does_not_depend_on_threads(store_of: Make) -> None:
    from concurrent.futures import ThreadPoolExecutor

    rows = rows_of(store_of(TEXTS))
    whole = rows.batch(0, 200)
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda first: rows.batch(first, 10), range(0, 200, 10)))
    for number, batch in enumerate(batches):
        assert_equal(batch, whole.rows(10 * number, 10 * number + 10))
