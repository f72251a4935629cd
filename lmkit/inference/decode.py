"""decode: ids in, ids out; knows nothing of text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lmkit.errors import ModelError
from lmkit.inference.sampling import Sampling, sample
from lmkit.nn.cache import Cache


class Forward(Protocol):
    """What decode needs of a model."""

    def __call__(self, tokens: Tensor, cache: Cache | None) -> Tensor:
        """(B, T) int64 -> logits (B, T, V); (B, 1, V) of each row's last token will do."""


def context_start(length: int, max_len: int) -> int:
    """Where the context of `length` tokens begins: 0 as long as all fit into `max_len`.

    After that it moves on by half a context at a time, so that a cache is filled anew once every
    max_len/2 tokens and not at every token.
    """
    if length <= max_len:
        return 0
    hop = max(1, max_len // 2)
    return -((max_len - length) // hop) * hop


def decode(
    forward: Forward,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    max_len: int,
    vocab_size: int,
    device: torch.device | str = "cpu",
    stop_ids: Collection[int] = (),
    cache: Cache | None = None,
    ended: set[int] | None = None,
) -> Iterator[tuple[int, int]]:
    """Continue all prompts at once; yield (row, id) as they are chosen, row by row in every step.

    A row's ids do not depend on its neighbours, nor on whether there is a cache: with one the model
    sees only the tokens that it has not read yet, without one all of the context, padded on the
    right (the model must be causal).

    Args:
        prompts: B lists of ids, none empty.
        max_len: tokens that the model can see at once; see `context_start` for longer texts.
        vocab_size: ids from here on, a padded vocabulary's, are never chosen.
        stop_ids: a row that chooses one of them yields it and ends; never penalised as repeated.
        cache: B rows, empty.
        ended: the caller may put in rows while iterating: they end too.

    Raises:
        ModelError: an empty prompt, or too few logits.
        NumericError: logits that are not finite.
    """
    if not all(prompts):
        raise ModelError("a prompt without tokens cannot be continued", hint="begin it with bos")
    ended = set() if ended is None else ended
    texts = [list(prompt) for prompt in prompts]
    reader = _Reader(forward, texts, max_len, torch.device(device), cache)
    seen = _seen(texts, vocab_size, stop_ids, device) if sampling.repetition_penalty != 1 else None
    for step in range(sampling.max_new_tokens):
        rows = [row for row in range(len(texts)) if row not in ended]
        if not rows:
            return
        with torch.no_grad():
            logits = reader.next_logits(rows)
            if logits.shape[-1] < vocab_size:
                raise ModelError(f"{logits.shape[-1]} logits for {vocab_size} ids")
            of_rows = None if seen is None else seen[rows]
            ids = sample(logits[:, :vocab_size], sampling, rows=rows, step=step, seen=of_rows)
        if seen is not None:
            seen[rows, ids] = True
        for row, chosen in zip(rows, ids, strict=True):
            texts[row].append(chosen)
            if chosen in stop_ids:
                ended.add(row)
            yield row, chosen


def _seen(
    texts: list[list[int]], vocab_size: int, stop_ids: Collection[int], device: torch.device | str
) -> Tensor:
    """(B, V) bool: the ids in each row's prompt, but for the marks."""
    seen = torch.zeros(len(texts), vocab_size, dtype=torch.bool, device=device)
    for row, text in enumerate(texts):
        seen[row, text] = True
    seen[:, list(stop_ids)] = False
    return seen


class _Reader:
    """Feeds the texts to the model and gives back the logits after each text's last token."""

    def __init__(
        self,
        forward: Forward,
        texts: list[list[int]],
        max_len: int,
        device: torch.device,
        cache: Cache | None,
    ) -> None:
        self.forward = forward
        self.texts = texts
        self.max_len = max_len
        self.device = device
        self.cache = cache
        self.starts = [0] * len(texts)
        self.read = [0] * len(texts)  # how far the cache has read each text

    def next_logits(self, rows: list[int]) -> Tensor:
        """(len(rows), V)."""
        if self.cache is None:
            return self._last_logits([self._context(row) for row in rows])
        new: list[list[int]] = [[] for _ in self.texts]  # a row that has ended brings no tokens
        for row in rows:
            new[row] = self._unread(row, self.cache)
        self.cache.begin([len(tokens) for tokens in new])
        logits = self._last_logits(new)
        self.cache.commit()
        return logits if len(rows) == len(self.texts) else logits[rows]

    def _context(self, row: int) -> list[int]:
        text = self.texts[row]
        return text[context_start(len(text), self.max_len) :]

    def _unread(self, row: int, cache: Cache) -> list[int]:
        text = self.texts[row]
        start = context_start(len(text), self.max_len)
        if start != self.starts[row]:
            cache.reset([row])
            self.starts[row] = self.read[row] = start
        unread = text[self.read[row] :]
        self.read[row] = len(text)
        return unread

    def _last_logits(self, contexts: list[list[int]]) -> Tensor:
        width = max(map(len, contexts))
        padded = [tokens + [0] * (width - len(tokens)) for tokens in contexts]
        logits = self.forward(torch.tensor(padded, device=self.device), self.cache)
        if logits.shape[1] == 1:
            return logits[:, 0]
        last = torch.tensor([max(0, len(tokens) - 1) for tokens in contexts], device=self.device)
        return logits[torch.arange(len(contexts), device=self.device), last]
