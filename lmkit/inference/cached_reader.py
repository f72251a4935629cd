"""cached_reader: rows of a cache, and which texts live there when; chooses no ids.

A row is a text (see `rows`), a place is a row of the cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lmkit.errors import ModelError
from lmkit.inference.lookup import Guesses, agreement
from lmkit.inference.reader import Forward, Rereader, Step, context_start, padded, picked
from lmkit.inference.rows import Rows
from lmkit.nn.cache import Cache

MakeCache = Callable[[int, int], Cache | None]  # given rows and tokens; see LMBase.make_cache

# Rows that have ended leave a cache once they are so large a part of it. Measured with 32 rows of a
# GPT of 4 x 256 on the CPU, against rows that stay: 1.2-1.3 times as fast when the answers are
# uniformly 16 to 160 tokens long, 1.5-2.0 times when exponentially. An eighth or a half do as well.
LEAVE = 0.25
# They make room for rows that wait a little sooner. 64 prompts, 16 rows at once of 6 x 384, answers
# exponentially long with a mean of 60, against four batches of 16: 1.4 times as fast, 1.35 with a
# quarter, 1.6 with a sixteenth; but where reading a prompt costs as much as reading some, as on a
# GPU, it is better to read some. Answers uniformly long: 1.0-1.1 times.
ENTER = 0.125


class CachedReader:
    """A model with a cache: it reads what it has not read yet.

    Rows wait until there is a place for them. Those that enter are read by themselves, each prompt
    once, into a cache of their own, and put where others have ended.

    Args:
        cache: for the prompts of the first rows that enter.
        make_cache: for those that enter later; given the number of prompts and of tokens.
        length: tokens that a row may need.
        samples: rows that share the reading of a prompt.
        slots: places.
    """

    def __init__(
        self,
        forward: Forward,
        rows: Rows,
        guesses: Guesses,
        *,
        max_len: int,
        device: torch.device,
        cache: Cache,
        make_cache: MakeCache | None,
        length: int,
        samples: int,
        slots: int,
    ) -> None:
        self.forward = forward
        self.rows = rows
        self.guesses = guesses
        self.max_len = max_len
        self.device = device
        self.cache = cache
        self.make_cache = make_cache
        self.length = length
        self.samples = samples
        self.slots = slots
        self.waiting = deque(range(len(rows)))
        self.held: list[int] = []  # the row at each place
        self.starts: list[int] = []  # where in its text the memory of it begins
        self._guessed: list[Sequence[int]] = []  # at each place: read, and perhaps wrong

    def step(self) -> Step | None:
        ended = self.rows.ended
        if not self.held:
            if all(row in ended for row in range(len(self.rows))):
                return None
            return self._enter(self._next(self.slots), self.cache, [])
        self._forget()
        gone = [place for place, row in enumerate(self.held) if row in ended]
        vacant = len(gone) == len(self.held)
        while self.waiting and self.waiting[0] in ended:
            self.waiting.popleft()
        if self.waiting and (vacant or self.cache.can_put):
            if len(gone) >= ENTER * len(self.held):
                rows = self._next(self.slots if vacant else len(gone))
                return self._enter(rows, self._made(rows, vacant), [] if vacant else gone)
        elif not vacant and self.cache.can_take and len(gone) >= LEAVE * len(self.held):
            left = set(gone)
            self._keep([place for place in range(len(self.held)) if place not in left])
        return None if vacant else self._read_on()

    # --- who is where -------------------------------------------------------------------------

    def _next(self, count: int) -> list[int]:
        return [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]

    def _made(self, rows: list[int], vacant: bool) -> Cache:
        assert self.make_cache is not None  # without it nobody waits
        prompts = {row // self.samples for row in rows}
        texts = (len(self.rows.texts[row]) for row in rows)
        cache = self.make_cache(
            len(prompts), self.length if vacant else min(self.max_len, max(texts))
        )
        assert cache is not None
        return cache

    def _enter(self, rows: list[int], cache: Cache, gone: list[int]) -> Step:
        """Read the prompts of rows into their cache; put them at the places of those that are gone.
        Without any, the cache itself is the one that is gone on with."""
        firsts = [row for row in rows if row == rows[0] or row % self.samples == 0]
        starts = [0] * len(firsts)
        unread = [self._unread(cache, starts, place, row) for place, row in enumerate(firsts)]
        logits = picked(self._read(cache, unread), unread, [()] * len(unread))
        if len(firsts) < len(rows):
            places = [row // self.samples - rows[0] // self.samples for row in rows]
            cache.take(places)
            logits, starts = logits[places], [starts[place] for place in places]
        if gone:
            self.cache.put(gone[: len(rows)], cache)
            for place, row, start in zip(gone, rows, starts, strict=False):
                self.held[place], self.starts[place] = row, start
        else:
            self.cache, self.held, self.starts = cache, rows, starts
        alive = [index for index, row in enumerate(rows) if row not in self.rows.ended]
        if len(alive) < len(rows):
            rows, logits = [rows[index] for index in alive], logits[alive]
        return Step(rows, [()] * len(rows), logits)

    def _keep(self, places: list[int]) -> None:
        self.cache.take(places)
        self.held = [self.held[place] for place in places]
        self.starts = [self.starts[place] for place in places]

    # --- what is read -------------------------------------------------------------------------

    def _read_on(self) -> Step:
        cache, ended = self.cache, self.rows.ended
        rows: list[int] = []
        unread: list[list[int]] = []
        guesses: list[Sequence[int]] = []
        for place, row in enumerate(self.held):
            if row in ended:
                unread.append([])
                guesses.append(())
                continue
            new = self._unread(cache, self.starts, place, row)
            guesses.append(self.guesses(row, cache.lengths[place] + len(new)))
            unread.append([*new, *guesses[-1]])
            rows.append(row)
        self._guessed = guesses
        logits = picked(self._read(cache, unread, any(guesses)), unread, guesses)
        if len(rows) < len(guesses):
            guesses = [guess for guess, tokens in zip(guesses, unread, strict=True) if tokens]
        return Step(rows, guesses, logits)

    def _unread(self, cache: Cache, starts: list[int], place: int, row: int) -> list[int]:
        text = self.rows.texts[row]
        start = context_start(len(text), self.max_len)
        if start != starts[place]:
            cache.reset([place])
            starts[place] = start
        return text[start + cache.lengths[place] :]

    def _read(self, cache: Cache, unread: list[list[int]], every: bool = False) -> Tensor:
        counts = [len(tokens) for tokens in unread]
        if every:
            cache.begin(counts, every=True)
        else:
            cache.begin(counts)
        logits = self.forward(padded(unread, self.device), cache)
        cache.commit()
        return logits

    def _forget(self) -> None:
        """Turn the memory back to where the texts went on otherwise than was guessed."""
        if not any(self._guessed):
            return
        lengths = list(self.cache.lengths)
        for place, guess in enumerate(self._guessed):
            text = self.rows.texts[self.held[place]]
            known = self.starts[place] + lengths[place] - len(guess)
            # what the text ends with is to be read anew, right or wrong
            lengths[place] -= len(guess) - agreement(guess, text[known:-1])
        self.cache.rewind(lengths)
        self._guessed = []


def reader_of(
    forward: Forward,
    rows: Rows,
    *,
    max_len: int,
    device: torch.device,
    cache: Cache | None,
    make_cache: MakeCache | None,
    slots: int | None,
    lookup: int,
) -> CachedReader | Rereader:
    """The reader that suits a model.

    Raises:
        ModelError: a cache that does not fit the rows, or cannot do what is asked of it.
    """
    samples, places = rows.samples, min(len(rows), slots or len(rows))
    length = min(max_len, max(rows.begun, default=0) + rows.most)
    guesses = Guesses(rows, lookup, max_len)
    if cache is not None:
        _check(cache, rows, places)
    elif make_cache is not None:
        cache = make_cache(-(-places // samples), length)
        if cache is not None and samples > 1 and not cache.can_take:
            samples, cache = 1, make_cache(places, length)
    if cache is None:
        return Rereader(forward, rows, guesses, max_len=max_len, device=device, slots=places)
    if lookup and not cache.can_rewind:
        raise ModelError(
            f"{type(cache).__qualname__} cannot forget what was guessed wrongly",
            hint="write its rewind(lengths), or leave lookup out",
        )
    return CachedReader(
        forward,
        rows,
        guesses,
        max_len=max_len,
        device=device,
        cache=cache,
        make_cache=make_cache,
        length=length,
        samples=samples,
        slots=places,
    )


def _check(cache: Cache, rows: Rows, places: int) -> None:
    """Whether a cache that was brought along, and may have read something, fits."""
    prompts = len(rows) // rows.samples
    if len(cache.lengths) != prompts:
        raise ModelError(f"a cache of {len(cache.lengths)} rows for {prompts} prompts")
    if places < len(rows):
        raise ModelError(
            f"a cache of all prompts for {places} of {len(rows)} rows at once",
            hint="give make_cache in its place",
        )
    if rows.samples > 1 and not cache.can_take:
        raise ModelError(
            f"{type(cache).__qualname__} cannot copy a row to its samples",
            hint="write its take(rows), or give each sample a prompt and a row of its own",
        )
    texts = rows.texts[:: rows.samples]
    if any(n >= len(text) for text, n in zip(texts, cache.lengths, strict=True)):
        raise ModelError("the cache has read a whole prompt, so no logits are left to come")
