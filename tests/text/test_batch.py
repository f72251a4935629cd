"""Batches: shifted, padded, counted, cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.prompts import Prompt
from lmkit.text import Batch, Byte, Sample, Tiktoken, encode_prompt, pack, trim

BYTE = Byte()
PAD = BYTE.eos


def sample(prompt: str, truth: str, include_prompts: bool = False) -> Sample:
    return encode_prompt(BYTE, Prompt(prompt=prompt, truth=truth), include_prompts=include_prompts)


def test_one_sample_a_row() -> None:
    batch = Batch.of([sample("a", "bc"), sample("", "é")], PAD, BYTE.token_bytes)
    assert batch.inputs.tolist() == [[256, 97, 98, 99], [256, 195, 169, PAD]]
    assert batch.targets.tolist() == [[97, 98, 99, 256], [195, 169, 256, PAD]]
    assert batch.weights.tolist() == [[0, 1, 1, 1], [1, 1, 1, 0]]
    assert batch.documents is None
    assert (len(batch), batch.width, batch.count) == (2, 4, 6)
    assert batch.bytes == 4  # b, c and the two of é; end marks are no text
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.weights.dtype == torch.float32


def test_padding_never_counts() -> None:
    samples = [sample("ab", "c", include_prompts=True), sample("abcdefgh", "i", True)]
    narrow = Batch.of(samples, PAD, BYTE.token_bytes)
    wide = Batch.of(samples, PAD, BYTE.token_bytes, width=20)
    assert wide.width == 20
    assert (wide.count, wide.bytes) == (narrow.count, narrow.bytes) == (14, 12)
    assert wide.weights[:, narrow.width :].sum() == 0


def test_packed_rows_number_their_documents() -> None:
    rows = [[sample("a", "b"), sample("", "c")], [sample("", "d")]]
    batch = Batch.packed(rows, PAD, BYTE.token_bytes, width=7)
    assert batch.inputs.tolist() == [
        [256, 97, 98, 256, 256, 99, 256],
        [256, 100, 256, PAD, PAD, PAD, PAD],
    ]
    assert batch.targets.tolist()[0] == [97, 98, 256, 256, 99, 256, PAD]
    assert batch.weights.tolist() == [[0, 1, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0]]
    assert batch.documents is not None
    assert batch.documents.dtype == torch.int32
    assert batch.documents.tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, -1, -1, -1, -1]]
    together = Batch.packed(rows, PAD, BYTE.token_bytes, width=7, isolate=False)
    assert together.documents is None
    assert torch.equal(together.targets, batch.targets)


def test_a_mask_on_bos_trains_the_end_of_the_document_before() -> None:
    first = encode_prompt(BYTE, Prompt(text="ab"))
    second = Sample(first.ids, np.ones_like(first.mask))
    batch = Batch.packed([[first, second]], PAD, BYTE.token_bytes, width=5)
    assert batch.targets.tolist() == [[97, 98, 256, 97, 98]]
    assert batch.weights.tolist() == [[1, 1, 1, 1, 1]]
    assert batch.bytes == 4


def test_a_row_too_full_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0 has 5 tokens; a row of 3 takes 4"):
        Batch.of([sample("ab", "c")], PAD, BYTE.token_bytes, width=3)


def test_no_rows() -> None:
    batch = Batch.of([], PAD, BYTE.token_bytes, width=4)
    assert (len(batch), batch.width, batch.count, batch.bytes) == (0, 4, 0, 0)
    assert batch.inputs.shape == (0, 4)


texts = st.lists(st.text("ab é🙂", max_size=12), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None)
@given(prompts=texts, cut=st.integers(0, 12), gpt2=st.booleans())
def test_cutting_is_additive(prompts: list[str], cut: int, gpt2: bool) -> None:
    tokenizer = Tiktoken() if gpt2 else BYTE
    samples = [
        encode_prompt(tokenizer, Prompt(prompt=text, truth=text[::-1]), include_prompts=False)
        for text in prompts
    ]
    batch = Batch.of(samples, tokenizer.eos, tokenizer.token_bytes)
    assert batch.bytes == sum(len(text.encode()) for text in prompts)
    assert batch.count == sum(one.trained for one in samples)
    parts = [batch.rows(0, cut), batch.rows(cut, len(batch))]
    assert sum(part.count for part in parts) == batch.count
    assert sum(part.bytes for part in parts) == batch.bytes
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
    assert sum(part.rows(0, 1).bytes + part.rows(1, 99).bytes for part in parts) == batch.bytes


@settings(max_examples=30, deadline=None)
@given(prompts=texts, width=st.integers(2, 30))
def test_packing_trains_what_single_rows_train(prompts: list[str], width: int) -> None:
    samples = [
        trim(encode_prompt(BYTE, Prompt(prompt=text, truth=text)), width) for text in prompts
    ]
    lengths = np.array([len(one.ids) - 1 for one in samples])
    rows = [
        [samples[piece.document] for piece in row] for row in pack(lengths, width + 1, split=False)
    ]
    packed = Batch.packed(rows, PAD, BYTE.token_bytes, width)
    single = Batch.of(samples, PAD, BYTE.token_bytes, width)
    assert (packed.count, packed.bytes) == (single.count, single.bytes)
    trained = [batch.targets[batch.weights != 0] for batch in (packed, single)]
    assert torch.equal(trained[0].sort().values, trained[1].sort().values)


def test_zero_weights_are_not_counted() -> None:
    batch = Batch.of([sample("a", "bc")], PAD, BYTE.token_bytes)
    weights = batch.weights * torch.tensor([1.0, -0.5, 0.0, 2.0])
    advantages = Batch.build(batch.inputs, batch.targets, weights, None, BYTE.token_bytes)
    assert (advantages.count, advantages.bytes) == (2, 1)


def test_moving_keeps_everything() -> None:
    batch = Batch.packed([[sample("a", "b")]], PAD, BYTE.token_bytes, width=4)
    moved = batch.to("meta")
    assert batch.documents is not None
    assert moved.documents is not None
    assert {moved.inputs.device.type, moved.documents.device.type} == {"meta"}
    assert (moved.count, moved.bytes, moved.row_bytes) == (batch.count, 2 - 1, batch.row_bytes)


def test_a_batch_that_cannot_be_cut_says_so() -> None:
    blank = torch.zeros(2, 3, dtype=torch.int64)
    assert Batch(blank, blank, blank.float(), None, count=0, bytes=0).rows(0, 1).bytes == 0
    with pytest.raises(ValueError, match="make it with Batch.build"):
        Batch(blank, blank, blank.float(), None, count=0, bytes=9).rows(0, 1)


def test_a_checksum_adds_up_over_shares_and_tells_every_row() -> None:
    texts = ["abcd", "efgh", "ijkl"]
    batch = Batch.of([sample("", text) for text in texts], PAD, BYTE.token_bytes)
    assert batch.checksum() == batch.rows(0, 1).checksum() + batch.rows(1, 3).checksum()
    assert batch.rows(3, 3).checksum() == 0
    other = Batch.of([sample("", text) for text in ["abcd", "efgx", "ijkl"]], PAD, BYTE.token_bytes)
    assert other.checksum() != batch.checksum()
