"""reader: what a model reads at each step, and what it says then; chooses no ids.

B rows that are read, T tokens, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lmkit.errors import ModelError
from lmkit.inference.lookup import Guesses, agreement
from lmkit.inference.rows import Rows
from lmkit.nn.cache import Cache


class Forward(Protocol):
    """What decoding needs of a model."""

    def __call__(self, tokens: Tensor, cache: Cache | None) -> Tensor:
        """(B, T) int64 -> logits (B, T, V); (B, 1, V) of each row's last token will do."""


class Step(NamedTuple):
    """What the model says of some rows: the logits after each row's last token and, row by row,
    after every token that was guessed behind it; (N, V)."""

    rows: list[int]
    guesses: list[Sequence[int]]
    logits: Tensor

    @property
    def asked(self) -> list[int]:
        """The row of each of the N."""
        if not any(self.guesses):
            return self.rows
        pairs = zip(self.rows, self.guesses, strict=True)
        return [row for row, guess in pairs for _ in range(1 + len(guess))]

    def settled(self, chosen: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
        """Each row's of N chosen ids: those of its guess that came true, and the one behind."""
        start = 0
        for row, guess in zip(self.rows, self.guesses, strict=True):
            ids = chosen[start : start + 1 + len(guess)]
            start += len(ids)
            yield row, ids[: agreement(guess, ids) + 1]


def context_start(length: int, max_len: int) -> int:
    """Where the context of `length` tokens begins: 0 as long as all fit into `max_len`.

    After that it moves on by half a context at a time, so that a cache is filled anew once every
    max_len/2 tokens and not at every token.
    """
    if length <= max_len:
        return 0
    hop = max(1, max_len // 2)
    return -((max_len - length) // hop) * hop


class Rereader:
    """A model without a cache: it reads all of each row's context at every step."""

    def __init__(
        self,
        forward: Forward,
        rows: Rows,
        guesses: Guesses,
        *,
        max_len: int,
        device: torch.device,
        slots: int,
    ) -> None:
        self.forward = forward
        self.rows = rows
        self.guesses = guesses
        self.max_len = max_len
        self.device = device
        self.slots = slots
        self._first = 0  # no row before this one is left

    def step(self) -> Step | None:
        ended = self.rows.ended
        while self._first in ended:
            self._first += 1
        left = (row for row in range(self._first, len(self.rows)) if row not in ended)
        rows = list(islice(left, self.slots))
        if not rows:
            return None
        contexts, guesses = [], []
        for row in rows:
            text = self.rows.texts[row]
            context = text[context_start(len(text), self.max_len) :]
            guesses.append(self.guesses(row, len(context)))
            contexts.append([*context, *guesses[-1]])
        logits = self.forward(padded(contexts, self.device), None)
        return Step(rows, guesses, picked(logits, contexts, guesses))


def padded(texts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(B, T) int64 of texts of different lengths, filled up on the right."""
    width = max(map(len, texts))
    rows = [[*tokens, *[0] * (width - len(tokens))] for tokens in texts]
    return torch.tensor(rows, device=device)


def picked(logits: Tensor, read: Sequence[list[int]], guesses: Sequence[Sequence[int]]) -> Tensor:
    """(B, T or 1, V) -> (N, V): of each row that has read anything the logits after its last token,
    or, if some were guessed, after the one before the guess and after each of them."""
    last_only = logits.shape[1] == 1
    if last_only and any(guesses):
        raise ModelError(
            "with a cache the model gives the logits of each row's last token only",
            hint="let its head read cache.last(x), or leave lookup out",
        )
    if last_only and all(read):
        return logits[:, 0]
    places: list[int] = []
    times: list[int] = []
    for place, (tokens, guess) in enumerate(zip(read, guesses, strict=True)):
        if tokens:
            new = [0] if last_only else range(len(tokens) - 1 - len(guess), len(tokens))
            places += [place] * len(new)
            times += new
    return logits[places, times]
