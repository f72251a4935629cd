"""A row of a batch as text: where training begins and ends, without its padding."""

from __future__ import annotations

import pytest

from lmkit.lab.stage_preview import Passage, passages
from lmkit.prompts import Prompt
from lmkit.text import Batch, Byte, Sample, encode_prompt

BYTE = Byte()
END = "<|endoftext|>"


def sample(prompt: str, truth: str, include_prompts: bool = False) -> Sample:
    return encode_prompt(BYTE, Prompt(prompt, truth), include_prompts=include_prompts)


@pytest.mark.parametrize("isolate", [False, True])
def test_prompts_packed_and_padded(isolate: bool) -> None:
    row = [sample("1+1=", "2"), sample("é", "ü")]
    batch = Batch.packed([row], BYTE.eos, BYTE.token_bytes, 40, isolate=isolate)
    assert passages(batch, 0, BYTE) == (
        Passage(f"{END}1+1=", False),
        Passage(f"2{END}", True),
        Passage(f"{END}é", False),
        Passage(f"ü{END}", True),
    )


def test_all_is_trained_but_the_first() -> None:
    batch = Batch.of([sample("ab", "c", include_prompts=True)], BYTE.eos, BYTE.token_bytes)
    assert passages(batch, 0, BYTE) == (Passage(END, False), Passage(f"abc{END}", True))
