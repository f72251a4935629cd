"""pairs: a preference as one run of tokens, and back; knows no rows."""

from __future__ import annotations

import numpy as np

from lmkit.errors import DataError
from lmkit.prompts import Prompt
from lmkit.text.samples import Sample, encode_prompt, trim
from lmkit.text.tokenizer import Tokenizer


def encode_pair(tokenizer: Tokenizer, prompt: Prompt) -> Sample:
    """The chosen sample and behind it the rejected one, each from its own bos on.

    Of each only the answer is trained.

    Raises:
        DataError: it is no preference; and as `encode_prompt`.
    """
    if prompt.chosen is None:
        raise DataError(
            "this is no preference", hint="write {prompt, chosen, rejected}", at=prompt.at or None
        )
    return _joined(
        *(
            _answer_only(encode_prompt(tokenizer, half, include_prompts=False))
            for half in prompt.pair
        )
    )


def trim_pair(sample: Sample, max_len: int) -> Sample:
    """A pair that fits into a row: of each of the two at most half of `max_len` is kept.

    One that teaches nothing then comes back with nothing trained: an answer is out of reach, or the
    two no longer differ.
    """
    chosen, rejected = halves = [trim(half, max_len // 2 - 1) for half in split_pair(sample)]
    pair = _joined(chosen, rejected)
    if all(half.trained for half in halves) and not np.array_equal(chosen.ids, rejected.ids):
        return pair
    return Sample(pair.ids, np.zeros_like(pair.mask))


def split_pair(sample: Sample) -> tuple[Sample, Sample]:
    """The two that `encode_pair` put together: the second begins where training first ends."""
    trained = int(sample.mask.argmax())
    border = trained + int((~sample.mask[trained:]).argmax())
    return (
        Sample(sample.ids[:border], sample.mask[:border]),
        Sample(sample.ids[border:], sample.mask[border:]),
    )


def _joined(chosen: Sample, rejected: Sample) -> Sample:
    return Sample(
        np.concatenate([chosen.ids, rejected.ids]), np.concatenate([chosen.mask, rejected.mask])
    )


def _answer_only(sample: Sample) -> Sample:
    """The same with what is trained last: earlier turns of the assistant are part of the prompt."""
    untrained = np.flatnonzero(~sample.mask)
    mask = sample.mask.copy()
    mask[: untrained[-1]] = False
    return Sample(sample.ids, mask)
