"""samples: a prompt becomes ids and the mask of what is learned; knows nothing of rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmkit.errors import DataError, LMKitError
from lmkit.prompts import Prompt
from lmkit.text import chat
from lmkit.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Ids from bos on, and which of them are to be predicted.

    Attributes:
        ids: (n,) int32.
        mask: (n,) bool; mask[i]: token i is trained as a target. Never the first: nothing comes
            before it.
    """

    ids: np.ndarray
    mask: np.ndarray

    @property
    def trained(self) -> int:
        """The number of targets; a sample with none teaches nothing and should be reported."""
        return int(self.mask.sum())


def encode_prompt(
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    include_prompts: bool = True,
    allow_special: bool = False,
) -> Sample:
    """The sample to train on.

    - `{prompt, truth}`: bos, prompt, truth, eos. An end-of-text mark written out at the end of
      truth is that eos, not a second one.
    - `{text}`: bos, text, and eos if it is another token than bos. If they are the same, the bos
      of the next document in a packed row is the end mark.
    - `{messages}`: as the tokenizer's chat template has it, see `lmkit.text.chat`.

    Args:
        include_prompts: train the prompt too; if not, only the truth and its eos (of messages: what
            the assistant says). Text is always trained.
        allow_special: read special tokens' names in the text as those tokens.

    Raises:
        TokenizerError: the text is not valid Unicode; names `prompt.at`.
        DataError: messages that cannot be rendered, or a preference (see `lmkit.text.pairs`);
            names `prompt.at`.
    """
    try:
        ids, mask = _encode(tokenizer, prompt, include_prompts, allow_special)
    except LMKitError as error:
        error.at = error.at or prompt.at or None
        raise
    trained = np.array(mask, dtype=bool)
    trained[0] = False
    return Sample(np.array(ids, dtype=np.int32), trained)


def trim(sample: Sample, max_len: int) -> Sample:
    """The first max_len + 1 tokens: max_len inputs, and the target of the last."""
    if len(sample.ids) <= max_len + 1:
        return sample
    return Sample(sample.ids[: max_len + 1], sample.mask[: max_len + 1])


def encode_prompts(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], max_len: int, include_prompts: bool
) -> list[Sample]:
    """A trimmed sample a prompt; one that has no token left to train on is named in a warning.

    Raises:
        TokenizerError, DataError: as `encode_prompt`.
    """
    samples = []
    for index, prompt in enumerate(prompts):
        sample = trim(encode_prompt(tokenizer, prompt, include_prompts=include_prompts), max_len)
        if not sample.trained:
            place = prompt.at or f"prompt {index}"
            said = f"{place}: no token to train on within {max_len} tokens"
            warnings.warn(said, stacklevel=3)  # of whoever called LMBase.tokenize
        samples.append(sample)
    return samples


def _encode(
    tokenizer: Tokenizer, prompt: Prompt, include_prompts: bool, allow_special: bool
) -> tuple[list[int], list[bool]]:
    bos, eos = tokenizer.bos, tokenizer.eos
    if prompt.chosen is not None:
        raise DataError("a preference is two samples", hint="train it with lmkit.rl.dpo")
    if prompt.messages:
        ids, said = chat.render(tokenizer, prompt.messages)
        return ids, [True] * len(ids) if include_prompts else said
    if prompt.text is not None:
        end = [eos] if eos != bos else []
        ids = [bos, *tokenizer.encode(prompt.text, allow_special), *end]
        return ids, [True] * len(ids)
    asked = [bos, *tokenizer.encode(prompt.prompt, allow_special)]
    truth = (prompt.truth or "").removesuffix(tokenizer.decode([eos]))
    answer = [*tokenizer.encode(truth, allow_special), eos]
    return asked + answer, [include_prompts] * len(asked) + [True] * len(answer)
