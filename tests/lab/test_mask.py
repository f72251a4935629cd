"""The rows of a stage for a reader: documents, what is trained, special tokens, no padding."""

from __future__ import annotations

import numpy as np
import torch

from lmkit.lab.mask import Span, row_of
from lmkit.prompts import Message, Part, Prompt
from lmkit.text import Batch, Byte, Tokenizer, encode_prompt

CHAT = Prompt(messages=(Message("user", "hi é"), Message("assistant", "ho\n")))


def batch_of(*prompts: Prompt, width: int, isolate: bool, tokenizer: Tokenizer) -> Batch:
    samples = [encode_prompt(tokenizer, prompt, include_prompts=False) for prompt in prompts]
    return Batch.packed(
        [samples], tokenizer.eos, tokenizer.token_bytes, width=width, isolate=isolate
    )


def test_a_conversation_is_cut_where_training_begins() -> None:
    tokenizer = Byte()
    row = row_of(batch_of(CHAT, width=60, isolate=True, tokenizer=tokenizer), 0, tokenizer)
    (document,) = row.documents
    said = "".join(span.text for span in document.spans)
    assert said.count("hi é") == 1
    assert Span("ho\n", trained=True, special=False) in document.spans
    assert document.spans[-1] == Span("<|endoftext|>", trained=True, special=True)
    assert document.spans[0] == Span("<|endoftext|>", trained=False, special=True)
    assert document.trained == len("ho\n") + 1
    assert document.tokens + row.padding == 61


def test_isolated_documents_are_told_apart_and_padding_is_left_out() -> None:
    tokenizer = Byte()
    pair = Prompt(prompt="a", truth="b")
    row = row_of(
        batch_of(pair, CHAT, pair, width=80, isolate=True, tokenizer=tokenizer), 0, tokenizer
    )
    assert [document.trained for document in row.documents] == [2, 4, 2]
    assert row.documents[0] == row.documents[2]
    assert sum(document.tokens for document in row.documents) + row.padding == 81


def test_the_last_token_of_a_full_row_belongs_to_its_document() -> None:
    tokenizer = Byte()
    pair = Prompt(prompt="a", truth="b")
    row = row_of(batch_of(pair, width=3, isolate=True, tokenizer=tokenizer), 0, tokenizer)
    assert (row.documents[0].tokens, row.padding) == (4, 0)
    assert row.documents[0].trained == 2


def test_texts_begin_at_each_bos() -> None:
    tokenizer = Byte()
    ids = [tokenizer.bos, 65, 66, tokenizer.bos, 67, tokenizer.eos, tokenizer.eos]
    weights = np.array([[1, 1, 1, 1, 0, 0]], dtype=np.float32)
    batch = Batch.build(
        torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]), torch.from_numpy(weights), None,
        tokenizer.token_bytes,
    )  # fmt: skip
    row = row_of(batch, 0, tokenizer)
    assert [[span.text for span in document.spans] for document in row.documents] == [
        ["<|endoftext|>", "AB"],
        ["<|endoftext|>", "C"],
    ]
    assert row.padding == 2


def test_parts_of_tools_are_cut_by_what_is_trained() -> None:
    from lmkit.data import InMemory
    from lmkit.data.vocabulary import train_tokenizer

    tokenizer = train_tokenizer(InMemory(["some words"], holdout=0.0), 267)
    parts = (Part("python", "1+1"), Part("python_output", "2"), Part("text", "two"))
    prompt = Prompt(messages=(Message("user", "<|bos|>"), Message("assistant", parts)))
    row = row_of(batch_of(prompt, width=60, isolate=True, tokenizer=tokenizer), 0, tokenizer)
    spans = row.documents[0].spans
    assert [span.text for span in spans if span.trained] == [
        "<|python_start|>", "1+1", "<|python_end|>", "two", "<|assistant_end|>",
    ]  # fmt: skip
    assert Span("<|bos|>", trained=False, special=False) in spans, "a user's text stays text"
