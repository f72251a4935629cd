from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lmkit.errors import DataError
from lmkit.evals import bits_per_byte
from lmkit.model import LMBase
from lmkit.text import Byte


class Bigram(LMBase):
    def __init__(self) -> None:
        super().__init__(tokenizer=Byte(), max_len=16)
        self.table = nn.Embedding(257, 257)
        self.dropout = nn.Dropout(0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.table(tokens))


PROMPTS = [{"prompt": "abc", "truth": "de"}, {"text": "xyz é"}]


def test_a_model_that_knows_nothing_needs_the_vocabularys_bits() -> None:
    model = Bigram()
    nn.init.zeros_(model.table.weight)
    measured = bits_per_byte(model, [model.tokenize(PROMPTS)])
    assert measured.bits_per_byte == pytest.approx(math.log2(257))
    assert measured.loss == pytest.approx(math.log(257))
    assert measured.bytes == measured.tokens == 5 + 6


def test_it_is_the_sum_over_the_texts_own_tokens() -> None:
    model = Bigram()
    log_p = model.table.weight.log_softmax(-1)
    ids = [256, *b"abcde"]
    nats = -sum(log_p[a, b] for a, b in zip(ids[:-1], ids[1:], strict=True))
    measured = bits_per_byte(model, [model.tokenize(PROMPTS[:1])])
    assert measured.loss == pytest.approx(nats.item() / 5)
    assert measured.bits_per_byte == pytest.approx(nats.item() / 5 / math.log(2))


def test_what_is_masked_out_is_not_measured() -> None:
    model = Bigram()
    measured = bits_per_byte(model, [model.tokenize(PROMPTS[:1], include_prompts=False)])
    assert (measured.tokens, measured.bytes) == (2, 2)


def test_a_weight_decides_only_whether_a_token_counts() -> None:
    model = Bigram()
    batch = model.tokenize(PROMPTS)
    measured = bits_per_byte(model, [batch])
    batch.weights.mul_(-3.0)
    assert bits_per_byte(model, [batch]) == measured


def test_the_cut_into_batches_does_not_matter() -> None:
    model = Bigram()
    batch = model.tokenize(PROMPTS)
    whole = bits_per_byte(model, [batch])
    parts = bits_per_byte(model, (batch.rows(row, row + 1) for row in range(2)))
    assert parts.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=1e-6)
    assert (parts.tokens, parts.bytes) == (whole.tokens, whole.bytes)


def test_no_gradients_no_dropout_and_the_mode_comes_back() -> None:
    model = Bigram()
    seen = []
    model.table.register_forward_hook(
        lambda *_: seen.append((torch.is_grad_enabled(), model.training))
    )
    first, second = (bits_per_byte(model, [model.tokenize(PROMPTS)]) for _ in range(2))
    assert seen == [(False, False)] * 2
    assert first == second
    assert model.training


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(DataError, match="no text to measure"):
        bits_per_byte(Bigram(), [])
