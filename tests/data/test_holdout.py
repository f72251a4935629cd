from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.data.holdout import check_holdout, is_held_out, split_documents
from lmkit.errors import ConfigError
from lmkit.prompts import Prompt


def both(texts: list[str], holdout: float) -> tuple[list[str], list[str]]:
    keyed = [(text, Prompt(text=text)) for text in texts]
    train, validation = (
        [document.text for document in split_documents(keyed, split, holdout)]
        for split in ("train", "validation")
    )
    return train, validation


def test_a_key_is_held_out_by_the_first_digits_of_its_sha256() -> None:
    for key in ("os.py", "email/header.py", "json/__init__.py"):
        number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)
        assert is_held_out(key, 0.05) == (number % 10_000 < 500)
        assert is_held_out(key, 0.5) == (number % 10_000 < 5000)


def test_the_share_is_about_what_was_asked_for() -> None:
    held_out = sum(is_held_out(f"file {number}", 0.05) for number in range(20_000))
    assert 900 < held_out < 1100


@given(
    st.lists(st.text(max_size=3), min_size=2, max_size=30, unique=True),
    st.sampled_from([0.01, 0.05, 0.5, 0.9]),
)
@settings(max_examples=50, deadline=None)
def test_every_document_is_in_one_split_and_something_is_held_out(
    texts: list[str], holdout: float
) -> None:
    train, validation = both(texts, holdout)
    assert sorted(train + validation) == sorted(texts)
    assert validation
    if any(is_held_out(text, holdout) for text in texts):
        assert validation == [text for text in texts if is_held_out(text, holdout)]
    else:
        assert len(validation) == 1


def test_a_document_keeps_its_side_when_others_come() -> None:
    texts = [f"text {number}" for number in range(100)]
    _, few = both(texts, 0.1)
    _, many = both([f"new {number}" for number in range(100)] + texts, 0.1)
    assert few
    assert set(few) <= set(many)


def test_the_end_of_a_single_text_is_held_out() -> None:
    assert both(["0123456789" * 10], 0.1) == (["0123456789" * 9], ["0123456789"])


def test_a_single_prompt_is_trained() -> None:
    keyed = [("a", Prompt(prompt="a", truth="b"))]
    assert len(list(split_documents(keyed, "train", 0.5))) == 1
    assert not list(split_documents(keyed, "validation", 0.5))


def test_no_holdout_trains_everything() -> None:
    assert both(["a", "b", "c"], 0.0) == (["a", "b", "c"], [])
    keyed = [(text, Prompt(text=text)) for text in "abc"]
    assert len(list(split_documents(keyed, "all", 0.5))) == 3


@pytest.mark.parametrize("holdout", [-0.1, 1.0, 5.0])
def test_a_share_must_be_a_share(holdout: float) -> None:
    with pytest.raises(ConfigError, match="0 <= holdout < 1"):
        check_holdout(holdout)
