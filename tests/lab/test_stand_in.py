"""A vocabulary that is not learned yet has its size, and nothing is downloaded for it."""

from __future__ import annotations

from typing import Any

import pytest

from lmkit.config import Experiment, build
from lmkit.errors import ConfigError
from lmkit.lab.stand_in import stand_in, with_tokenizer

FAR = {"class": "lmkit.data.corpora.HubDataset", "repo": "a/b", "files": "*.parquet"}


def experiment(tokenizer: Any) -> Experiment:
    stage = {"name": "a", "data": "lmkit.data.corpora.PythonStdlib", "steps": 1}
    return Experiment.from_dict(
        {"name": "x", "tokenizer": tokenizer, "model": "a.B", "stages": [stage]}
    )


@pytest.mark.parametrize("size", [300, 4096, 70_000])
def test_it_has_the_size_and_the_special_tokens(size: int) -> None:
    tokenizer = stand_in(size)
    assert tokenizer.vocab_size == size
    assert tokenizer.special_tokens["<|assistant_end|>"] >= size - 11
    text = "def f(): # ü\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    with pytest.raises(ConfigError, match="a vocabulary of 260; the least is 267"):
        stand_in(260)


def test_only_text_that_is_not_here_is_waited_for() -> None:
    learned = {"class": "lmkit.data.vocabulary.train_tokenizer", "vocab_size": 500}
    near = with_tokenizer(experiment({**learned, "train_on": "lmkit.data.corpora.PythonStdlib"}))
    assert near.waits_for is None
    for tokenizer in ("lmkit.text.Byte", {**learned, "train_on": "some.txt"}):
        given = experiment(tokenizer)
        assert with_tokenizer(given).experiment is given
    far = with_tokenizer(experiment({**learned, "train_on": FAR, "chat": "plain"}))
    assert far.waits_for is not None
    assert far.waits_for.startswith("HubDataset a/b: ")
    assert build(far.experiment.tokenizer).vocab_size == 500
