"""compression: how many bytes of text a tokenizer puts into a token, and where it cuts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lmkit.text import Tokenizer


@dataclass(frozen=True)
class Compression:
    """A text in numbers."""

    bytes: int
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        """0 for no text."""
        return self.bytes / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class Piece:
    """A token of a text: its id and its bytes, which may be a part of a character."""

    id: int
    bytes: bytes
    special: bool


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> Compression:
    """Encode the texts, several at once where that is faster.

    Raises:
        TokenizerError: one of them is not valid Unicode.
    """
    size = tokens = 0
    for some in _batches(texts):
        tokens += sum(map(len, tokenizer.encode_batch(some)))
        size += sum(len(text.encode()) for text in some)
    return Compression(size, tokens)


def beginning(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The first so many characters of the texts."""
    for text in texts:
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)


def pieces(tokenizer: Tokenizer, text: str, *, allow_special: bool = False) -> list[Piece]:
    """What becomes of a text, token by token."""
    tokens = tokenizer.vocabulary()
    special = set(tokenizer.special_tokens.values())
    ids = tokenizer.encode(text, allow_special)
    return [Piece(each, tokens[each], each in special) for each in ids]


def _batches(texts: Iterable[str], characters: int = 2**22) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
