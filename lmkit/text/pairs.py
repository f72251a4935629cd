"""pairs: a preference as one run of tokens, and back; knows no rows."""

from __future__ import annotations

import numpy as np

from lmkit.errors import DataError
from lmkit.prompts import Prompt
from lmkit.text.samples import Sample, encode_prompt, trim
from lmkit.text.tokenizer import Tokenizer


def encode_pair(tokenizer: Tokenizer, prompt: Prompt, max_len: int) -> Sample:
    """The chosen sample and behind it the rejected one, each from its own bos on.

    Of each only the answer is trained, and at most half of `max_len` is kept, so that a pair fits
    into a row. A pair of which an answer is out of reach comes back with nothing trained.

    Raises:
        DataError: it is no preference; and as `encode_prompt`.
    """
    if prompt.chosen is None:
        raise DataError(
            "this is no preference", hint="write {prompt, chosen, rejected}", at=prompt.at or None
        )
    halves = [
        trim(_answer_only(encode_prompt(tokenizer, half, include_prompts=False)), max_len // 2 - 1)
        for half in prompt.pair
    ]
    ids = np.concatenate([half.ids for half in halves])
    mask = np.concatenate([half.mask for half in halves])
    return Sample(ids, mask if all(half.trained for half in halves) else np.zeros_like(mask))


def split_pair(sample: Sample) -> tuple[Sample, Sample]:
    """The two that `encode_pair` put together: the second begins where training first ends."""
    trained = int(sample.mask.argmax())
    border = trained + int((~sample.mask[trained:]).argmax())
    return (
        Sample(sample.ids[:border], sample.mask[:border]),
        Sample(sample.ids[border:], sample.mask[border:]),
    )


def _answer_only(sample: Sample) -> Sample:
    """The same with what is trained last: earlier turns of the assistant are part of the prompt."""
    untrained = np.flatnonzero(~sample.mask)
    mask = sample.mask.copy()
    mask[: untrained[-1]] = False
    return Sample(sample.ids, mask)
