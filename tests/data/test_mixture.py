from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lmkit.config import build
from lmkit.data import InMemory, MixedRows, MixedStores, Mixture, Rows, TokenStore, open_rows
from lmkit.data.mixed_rows import PERIOD
from lmkit.errors import ConfigError, DataError
from lmkit.text import Byte

Make = Callable[..., TokenStore]
LETTERS = ["a" * 300, "b" * 700, "c" * 200]


def mixed(store_of: Make, weights: list[float], seed: int | None = 1) -> MixedRows:
    stores = [store_of([text]) for text in LETTERS[: len(weights)]]
    return open_rows(MixedStores(stores, weights), width=16, seed=seed, tokenizer=Byte())


def letters(rows: MixedRows, first: int, count: int) -> str:
    return "".join(chr(row[0]) for row in rows.batch(first, count).targets.tolist())


def test_every_period_has_every_share(store_of: Make) -> None:
    rows = mixed(store_of, [1, 2, 5])
    for period in (0, 1, 40):
        found = letters(rows, period * PERIOD, PERIOD)
        assert [found.count(letter) for letter in "abc"] == [128, 256, 640]
    assert letters(rows, 0, PERIOD) != letters(rows, PERIOD, PERIOD)


def test_a_small_weight_still_gets_a_row(store_of: Make) -> None:
    found = letters(mixed(store_of, [1e-9, 1, 1e-9]), 0, PERIOD)
    assert [found.count(letter) for letter in "abc"] == [1, PERIOD - 2, 1]


def test_any_stretch_in_any_order_is_part_of_the_same_stream(store_of: Make) -> None:
    whole = mixed(store_of, [1, 2, 5]).batch(PERIOD - 50, 100)
    for first, count in [(80, 20), (0, 60), (49, 2)]:
        part = mixed(store_of, [1, 2, 5]).batch(PERIOD - 50 + first, count)
        assert torch.equal(part.inputs, whole.inputs[first : first + count])
        assert torch.equal(part.weights, whole.weights[first : first + count])


def test_each_source_goes_through_its_own_rows_in_order(store_of: Make) -> None:
    rows = mixed(store_of, [1, 1])
    batch = rows.batch(0, 2 * PERIOD)
    for number, letter in enumerate("ab"):
        own = batch.inputs[batch.targets[:, 0] == ord(letter)]
        assert torch.equal(own, rows.parts[number].batch(0, PERIOD).inputs)


def test_without_a_seed_the_sources_are_spread_evenly(store_of: Make) -> None:
    assert letters(mixed(store_of, [1, 3], seed=None), 0, 8) == "babbbabb"


def test_an_epoch_has_the_rows_of_all(store_of: Make) -> None:
    rows = mixed(store_of, [1, 9, 1])
    assert rows.rows_per_epoch == sum(part.rows_per_epoch for part in rows.parts)


def test_texts_and_prompts_agree_on_numbered_documents(store_of: Make) -> None:
    text = store_of(["abc " * 20])
    prompts = store_of([{"prompt": "q", "truth": "r"}] * 9)
    for pack in (True, False):
        mixture = MixedStores([text, prompts], [1, 1])
        batch = open_rows(mixture, width=16, seed=1, tokenizer=Byte(), pack=pack).batch(0, 40)
        assert (batch.documents is not None) == pack
        assert {0.0, 1.0} == set(batch.weights.unique().tolist())
    parts = [Rows(store, 16, seed=1, tokenizer=Byte()) for store in (text, prompts)]
    with pytest.raises(ValueError, match="agree on width and on numbered documents"):
        MixedRows(parts, [1, 1], seed=1)


def test_one_store_needs_no_mixture(store_of: Make) -> None:
    assert isinstance(open_rows(store_of(["abc"]), width=3, seed=1, tokenizer=Byte()), Rows)


def test_an_empty_source_is_left_out(store_of: Make) -> None:
    stores = MixedStores([store_of(["abc " * 20]), store_of([""])], [1, 5])
    assert stores.weights == [1]
    assert stores.document_count == 1
    assert open_rows(stores, width=16, seed=1, tokenizer=Byte()).shares == [PERIOD]


def test_it_can_stand_in_a_yaml() -> None:
    memory = {"class": "lmkit.data.sources.InMemory", "holdout": 0}
    sources = [{"source": {**memory, "prompts": [text]}, "weight": 3} for text in "ab"]
    sources[1].pop("weight")
    mixture = build({"class": "lmkit.data.mixture.Mixture", "sources": sources})
    assert [document.text for document in mixture.documents("train")] == ["a", "b"]
    assert mixture.available()
    assert mixture.describe() == (
        "Mixture: 75.0% InMemory: 1 prompts, 0% held out; 25.0% InMemory: 1 prompts, 0% held out"
    )
    equal = Mixture([{"source": mixture.shares[0].source, "weight": 3}, mixture.shares[1]])
    assert mixture.fingerprint() == equal.fingerprint()
    other = Mixture([{"source": mixture.shares[0].source}, mixture.shares[1]])
    assert mixture.fingerprint() != other.fingerprint()


def test_errors() -> None:
    source = InMemory(["a"])
    with pytest.raises(ConfigError, match="a weight must be above 0, not 0"):
        Mixture([{"source": source, "weight": 0}])
    with pytest.raises(ConfigError, match="a mixture needs a source"):
        Mixture([])
    with pytest.raises(ConfigError, match="a mixture in a mixture; write its sources out"):
        Mixture([{"source": Mixture([{"source": source}])}])
    with pytest.raises(DataError, match="the list of prompts is empty"):
        list(Mixture([{"source": InMemory([])}]).documents("all"))
