"""encoder: documents in, their tokens out, in the same order; writes nothing.

Documents are read and encoded in chunks of about a megabyte, so that memory stays bounded however
much text there is, and several chunks are encoded at once: tiktoken works outside the interpreter's
lock.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from lmkit.errors import DataError, TokenizerError
from lmkit.prompts import Prompt
from lmkit.text import Tokenizer, encode_prompt, trim
from lmkit.text.pairs import encode_pair, trim_pair

CHUNK = 2**20  # characters encoded in one go
# between a letter and white space every split pattern in use has a boundary (those of GPT-2,
# cl100k, o200k and python4k): cut there, a text gets the same ids as in one piece
_BOUNDARY = re.compile(r"[^\W\d_](?=[ \n])")
_NOTHING = np.zeros(0, dtype=np.int64)


class Part(NamedTuple):
    """A document, or a stretch of a long text; `last` ends the document."""

    document: Prompt
    text: str
    last: bool = True

    @property
    def size(self) -> int:
        """Characters to encode; of a text those of the part."""
        document = self.document
        return len(self.text) if document.text is not None else sum(map(len, document.said))


class Encoded(NamedTuple):
    """The tokens of a part, without bos; `notes` says what happened to them."""

    part: Part
    ids: np.ndarray
    mask: np.ndarray | None = None
    notes: tuple[str, ...] = ()


Encode = Callable[[Part], Encoded]


def text_encoder(tokenizer: Tokenizer) -> Encode:
    """Texts: their ids, and eos if it is another token than the bos of the next document."""
    end = np.array([tokenizer.eos] if tokenizer.eos != tokenizer.bos else [], dtype=np.int64)

    def encode(part: Part) -> Encoded:
        if not part.text:
            return Encoded(part, _NOTHING, notes=("empty",))
        ids = tokenizer.encode_array(part.text)
        return Encoded(part, np.concatenate([ids, end]) if part.last and end.size else ids)

    return encode


def prompt_encoder(
    tokenizer: Tokenizer, max_len: int, *, include_prompts: bool, pairs: bool
) -> Encode:
    """Prompts: the sample's ids and mask, trimmed; left out if nothing of it is trained.

    Args:
        max_len: they are trimmed to max_len + 1 tokens.
        include_prompts: train what is asked too.
        pairs: they are preferences; of both answers.
    """

    def encode(part: Part) -> Encoded:
        if pairs:
            whole = encode_pair(tokenizer, part.document)
            sample = trim_pair(whole, max_len)
        else:
            whole = encode_prompt(tokenizer, part.document, include_prompts=include_prompts)
            sample = trim(whole, max_len)
        notes: tuple[str, ...] = ("trimmed",) if len(sample.ids) < len(whole.ids) else ()
        if _calls_tools(part.document) and not tokenizer.chat.shows_tools:
            notes += ("tools_left_out",)
        if not sample.trained:
            return Encoded(part, _NOTHING, _NOTHING, (*notes, "without_target"))
        return Encoded(part, sample.ids[1:], sample.mask[1:], notes)

    return encode


def cut(documents: Iterable[Prompt], *, prompts: bool) -> Iterator[Part]:
    """The documents; long texts cut, so that no part is much longer than a chunk.

    Raises:
        DataError: one is a prompt among texts, or a text among prompts.
    """
    for document in documents:
        if (document.text is None) != prompts:
            raise DataError(
                "texts and prompts in one source", hint="make two, and a Mixture", at=document.at
            )
        text = document.text or ""
        start = 0
        while len(text) - start > CHUNK and (border := _BOUNDARY.search(text, start + CHUNK)):
            yield Part(document, text[start : border.end()], last=False)
            start = border.end()
        yield Part(document, text[start:])


def encode_all(parts: Iterable[Part], encode: Encode, threads: int) -> Iterator[Encoded]:
    """Every part encoded, in their order; a few chunks are under way at once.

    Raises:
        DataError: one cannot be encoded; says where it stands.
    """

    def work(chunk: list[Part]) -> list[Encoded]:
        return [_located(encode, part) for part in chunk]

    waiting: deque[Future[list[Encoded]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for chunk in _chunks(parts):
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _calls_tools(prompt: Prompt) -> bool:
    return any(part.type == "python" for turn in prompt.messages for part in turn.parts)


def _chunks(parts: Iterable[Part]) -> Iterator[list[Part]]:
    chunk: list[Part] = []
    size = 0
    for part in parts:
        chunk.append(part)
        size += part.size
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _located(encode: Encode, part: Part) -> Encoded:
    """The part encoded; an error about its text says where it stands."""
    try:
        return encode(part)
    except (TokenizerError, DataError) as error:
        raise DataError(error.what, hint=error.hint, at=part.document.at) from error
