"""decode: ids in, ids out; knows nothing of text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lmkit.errors import ModelError
from lmkit.inference.sampling import Sampling, sample
from lmkit.nn.cache import Cache

# Rows that have ended leave a cache once they are so large a part of it. Measured with 32 rows of a
# GPT of 4 x 256 on the CPU, against rows that stay: 1.2-1.3 times as fast when the answers are
# uniformly 16 to 160 tokens long, 1.5-2.0 times when exponentially. An eighth or a half do as well.
LEAVE = 0.25


class Forward(Protocol):
    """What decode needs of a model."""

    def __call__(self, tokens: Tensor, cache: Cache | None) -> Tensor:
        """(B, T) int64 -> logits (B, T, V); (B, 1, V) of each row's last token will do."""


class Chosen(NamedTuple):
    """One more id of a row; `forced`: not the model chose it but `after`."""

    row: int
    id: int
    forced: bool


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
    samples: int = 1,
    seeds: Sequence[int] | None = None,
    after: Callable[[int, int], Sequence[int]] | None = None,
    ended: set[int] | None = None,
) -> Iterator[Chosen]:
    """Continue all prompts at once; yield each id as it is chosen, row by row in every step.

    A row's ids do not depend on its neighbours, nor on whether there is a cache: with one the model
    sees only the tokens that it has not read yet, without one all of the context, padded on the
    right (the model must be causal).

    Args:
        prompts: B lists of ids, none empty.
        max_len: tokens that the model can see at once; see `context_start` for longer texts.
        vocab_size: ids from here on, a padded vocabulary's, are never chosen.
        stop_ids: a row that chooses one of them yields it and ends; never penalised as repeated.
        cache: one row a prompt. What it has read already are the prompts' first tokens.
        samples: rows a prompt, numbered prompt by prompt; each prompt is read once.
        seeds: one a row: its draws then depend on that and on how much it has written, only.
        after: called with the row and the id after each choice; gives the ids that are put behind
            it. They count as new ones, and the model reads them together with what it chose.
        ended: the caller may put in rows while iterating: they end too.

    Raises:
        ModelError: an empty prompt, no samples, too few logits, another number of seeds than of
            rows, or a cache that does not fit the prompts or cannot take their several samples.
        NumericError: logits that are not finite.
    """
    if not all(prompts):
        raise ModelError("a prompt without tokens cannot be continued", hint="begin it with bos")
    if samples < 1:
        raise ModelError(f"{samples} samples of a prompt", hint="ask for 1 or more")
    texts = [list(prompt) for prompt in prompts for _ in range(samples)]
    if seeds is not None and len(seeds) != len(texts):
        raise ModelError(f"{len(seeds)} seeds for {len(texts)} rows", hint="give one a row")
    ended = set() if ended is None else ended
    begun = [len(text) for text in texts]
    reader = _Reader(forward, texts, samples, max_len, torch.device(device), cache)
    seen = _seen(texts, vocab_size, stop_ids, device) if sampling.repetition_penalty != 1 else None
    while rows := [row for row in range(len(texts)) if row not in ended]:
        with torch.no_grad():
            logits = reader.next_logits(rows)
            if logits.shape[-1] < vocab_size:
                raise ModelError(f"{logits.shape[-1]} logits for {vocab_size} ids")
            ids = sample(
                logits[:, :vocab_size],
                sampling,
                rows=rows,
                step=[len(texts[row]) - begun[row] for row in rows],
                seeds=None if seeds is None else [seeds[row] for row in rows],
                seen=None if seen is None else seen[rows],
            )
        for row, chosen in zip(rows, ids, strict=True):
            texts[row].append(chosen)
            if chosen in stop_ids:
                ended.add(row)
            yield Chosen(row, chosen, False)
            room = begun[row] + sampling.max_new_tokens - len(texts[row])
            forced = [] if after is None or row in ended else after(row, chosen)[:room]
            for token in forced:
                texts[row].append(token)
                yield Chosen(row, token, True)
            if len(forced) == room:
                ended.add(row)
            if seen is not None:
                seen[row, [chosen, *forced]] = True


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
        samples: int,
        max_len: int,
        device: torch.device,
        cache: Cache | None,
    ) -> None:
        self.forward = forward
        self.texts = texts
        self.samples = samples
        self.max_len = max_len
        self.device = device
        self.cache = cache
        self.held = list(range(0, len(texts), samples))  # the texts that the cache's rows are of
        self.starts = [0] * len(self.held)  # where in its text the memory of each of them begins
        if cache is not None:
            self._check(cache)

    def next_logits(self, rows: list[int]) -> Tensor:
        """(len(rows), V); the rows ascend."""
        if self.samples > 1:  # up to here the samples of a prompt are one
            places = [row // self.samples for row in rows]
            logits = self._read(self.held)[places]
            self._hold(rows, places)
            self.samples = 1
            return logits
        gone = len(self.held) - len(rows)
        if self.cache is not None and self.cache.can_take and gone >= LEAVE * len(self.held):
            self._hold(rows, self._places(rows))
        return self._read(rows)

    def _hold(self, rows: list[int], places: list[int]) -> None:
        """Keep these rows and no others, each with what the cache holds at its place."""
        if self.cache is not None:
            self.cache.take(places)
        self.held = rows
        self.starts = [self.starts[place] for place in places]

    def _places(self, rows: list[int]) -> list[int]:
        wanted = set(rows)
        return [place for place, row in enumerate(self.held) if row in wanted]

    def _read(self, rows: list[int]) -> Tensor:
        if self.cache is None:
            return self._last_logits([self._context(row) for row in rows])
        places = self._places(rows)
        new: list[list[int]] = [[] for _ in self.held]  # a row that has ended brings no tokens
        for place in places:
            new[place] = self._unread(place, self.cache)
        self.cache.begin([len(tokens) for tokens in new])
        logits = self._last_logits(new)
        self.cache.commit()
        return logits if len(places) == len(new) else logits[places]

    def _context(self, row: int) -> list[int]:
        text = self.texts[row]
        return text[context_start(len(text), self.max_len) :]

    def _unread(self, place: int, cache: Cache) -> list[int]:
        text = self.texts[self.held[place]]
        start = context_start(len(text), self.max_len)
        if start != self.starts[place]:
            cache.reset([place])
            self.starts[place] = start
        return text[start + cache.lengths[place] :]

    def _last_logits(self, contexts: list[list[int]]) -> Tensor:
        width = max(map(len, contexts))
        padded = [tokens + [0] * (width - len(tokens)) for tokens in contexts]
        logits = self.forward(torch.tensor(padded, device=self.device), self.cache)
        if logits.shape[1] == 1:
            return logits[:, 0]
        last = torch.tensor([max(0, len(tokens) - 1) for tokens in contexts], device=self.device)
        return logits[torch.arange(len(contexts), device=self.device), last]

    def _check(self, cache: Cache) -> None:
        if len(cache.lengths) != len(self.held):
            raise ModelError(f"a cache of {len(cache.lengths)} rows for {len(self.held)} prompts")
        if self.samples > 1 and not cache.can_take:
            raise ModelError(
                f"{type(cache).__qualname__} cannot copy a row to its samples",
                hint="write its take(rows), or give each sample a prompt and a row of its own",
            )
        if any(n >= len(self.texts[row]) for row, n in zip(self.held, cache.lengths, strict=True)):
            raise ModelError("the cache has read a whole prompt, so no logits are left to come")
