"""decode: ids in, ids out; knows nothing of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lmkit.errors import ConfigError, ModelError
from lmkit.inference.cached_reader import MakeCache, reader_of
from lmkit.inference.reader import Forward, Step
from lmkit.inference.rows import Chosen, Rows
from lmkit.inference.sampling import Sampling, sample
from lmkit.nn.cache import Cache


def decode(
    forward: Forward,
    rows: Rows,
    sampling: Sampling,
    *,
    max_len: int,
    vocab_size: int,
    device: torch.device | str = "cpu",
    seeds: Sequence[int] | None = None,
    cache: Cache | None = None,
    make_cache: MakeCache | None = None,
    slots: int | None = None,
    lookup: int | None = None,
) -> Iterator[Chosen]:
    """Continue all rows; yield each id as it is chosen, row by row in every step.

    A row's ids do not depend on its neighbours, nor on how many are continued at once, nor on
    whether there is a cache: with one the model sees only the tokens that it has not read yet,
    without one all of the context, padded on the right (the model must be causal).

    Args:
        rows: the prompts, and what ends each row.
        max_len: tokens that the model can see at once; see `context_start` for longer texts.
        vocab_size: ids from here on, a padded vocabulary's, are never chosen.
        seeds: one a row: its draws then depend on that and on how much it has written, only.
        cache: one row a prompt. What it has read already are the prompts' first tokens.
        make_cache: in place of `cache`: makes one for so many rows of so many tokens, or None.
        slots: rows that are continued at once. Where one has ended, the next one enters
            (continuous batching; Yu et al., "Orca", OSDI 2022). A prompt may then be read again
            for samples that enter later.
        lookup: guess up to so many ids ahead where a row repeats itself (see `lookup`), and read
            them in one step. Greedy rows only. The ids stay the same, as far as the model rounds
            the same when it reads several tokens at once.

    Raises:
        ModelError: too few logits, another number of seeds than of rows, or a cache that does not
            fit the prompts or cannot do what is asked of it.
        ConfigError: `slots` or `lookup` out of range, or lookup for rows that are not greedy.
        NumericError: logits that are not finite.
    """
    check_options(sampling, slots, lookup)
    if seeds is not None and len(seeds) != len(rows):
        raise ModelError(f"{len(seeds)} seeds for {len(rows)} rows", hint="give one a row")
    reader = reader_of(
        forward,
        rows,
        max_len=max_len,
        device=torch.device(device),
        cache=cache,
        make_cache=make_cache,
        slots=slots,
        lookup=lookup or 0,
    )
    choose = _Choice(rows, sampling, vocab_size, seeds, device)
    while True:
        with torch.no_grad():
            step = reader.step()
            if step is None:
                return
            chosen = choose(step)
        for row, ids in step.settled(chosen):
            yield from rows.write(row, ids)


def check_options(sampling: Sampling, slots: int | None, lookup: int | None) -> None:
    """Raise ConfigError for what `decode` cannot be asked, with `key` slots or lookup."""
    if slots is not None and slots < 1:
        raise ConfigError(f"{slots} rows at once", hint="1 or more", key="slots")
    if lookup is not None and lookup < 0:
        raise ConfigError(f"lookup is {lookup}", hint="0 (off) or more", key="lookup")
    if lookup and (sampling.temperature != 0 or sampling.repetition_penalty != 1):
        raise ConfigError(
            "lookup is for the likeliest ids only",
            hint="temperature 0 and repetition_penalty 1, or leave it out",
            key="lookup",
        )


class _Choice:
    """The ids that are chosen at each step, with the seeds and the penalties of each row."""

    def __init__(
        self,
        rows: Rows,
        sampling: Sampling,
        vocab_size: int,
        seeds: Sequence[int] | None,
        device: torch.device | str,
    ) -> None:
        self.rows = rows
        self.sampling = sampling
        self.vocab_size = vocab_size
        self.seeds = seeds
        self.seen: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self.seen = torch.zeros(len(rows), vocab_size, dtype=torch.bool, device=device)
            self._marked = [0] * len(rows)

    def __call__(self, step: Step) -> list[int]:
        """(N, V) logits to N ids."""
        logits, rows = step.logits, step.asked
        if logits.shape[-1] < self.vocab_size:
            raise ModelError(f"{logits.shape[-1]} logits for {self.vocab_size} ids")
        if logits.shape[-1] > self.vocab_size:
            logits = logits[:, : self.vocab_size]
        return sample(
            logits,
            self.sampling,
            rows=rows,
            step=[self.rows.written(row) for row in rows],
            seeds=None if self.seeds is None else [self.seeds[row] for row in rows],
            seen=None if self.seen is None else self._mark(self.seen, rows),
        )

    def _mark(self, seen: Tensor, rows: Sequence[int]) -> Tensor:
        """(N, V) bool: what each row has read and written, but for the stop ids."""
        places: list[int] = []
        ids: list[int] = []
        for row in rows:
            new = self.rows.texts[row][self._marked[row] :]
            self._marked[row] += len(new)
            places += [row] * len(new)
            ids += new
        seen[places, ids] = True
        seen[:, list(self.rows.stop_ids)] = False
        return seen[rows]
