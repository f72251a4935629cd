"""mixed_rows: the rows of several stores in one stream, each with its share; packs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from lmkit.data.layout import shuffled
from lmkit.data.mixture import MixedStores, Store
from lmkit.data.rows import Rows
from lmkit.data.sharded import ShardedStore
from lmkit.data.sharded_rows import ShardedRows
from lmkit.data.store import TokenStore
from lmkit.text import Batch, Tokenizer

PERIOD = 1024  # rows in which every source has exactly its share


class MixedRows:
    """The rows of several sources, mixed; as pure a function of (seed, number) as they are.

    In every period of 1,024 rows each source has its share, to the nearest row but at least one;
    where they stand in it is shuffled (seed None: spread evenly). A source that runs out begins
    its next epoch.

    Args:
        rows: of each source, with the same width, all with numbered documents or none.
        weights: of each source.
        seed: decides the order.

    Attributes:
        rows_per_epoch: as many rows as all sources have.
    """

    def __init__(
        self,
        rows: Sequence[Rows | ShardedRows],
        weights: Sequence[float],
        *,
        seed: int | None,
    ) -> None:
        if len({(part.width, part.numbered) for part in rows}) != 1:
            raise ValueError("the rows of a mixture must agree on width and on numbered documents")
        self.parts = list(rows)
        self.seed = seed
        self.shares = _shares(weights, PERIOD)
        self.rows_per_epoch = sum(part.rows_per_epoch for part in rows)
        self._period = lru_cache(maxsize=4)(self._make_period)

    def batch(self, first_row: int, count: int) -> Batch:
        """Rows first_row..first_row + count of the stream, (count, width)."""
        picked: list[tuple[Rows | ShardedRows, int]] = []
        for number in range(first_row, first_row + count):
            period, place = divmod(number, PERIOD)
            sources, ranks = self._period(period)
            source = int(sources[place])
            picked.append((self.parts[source], period * self.shares[source] + int(ranks[place])))
        return self.parts[0].assemble(picked)

    def _make_period(self, period: int) -> tuple[np.ndarray, np.ndarray]:
        """(PERIOD,) the source of each row, and how many rows of it stand before in the period."""
        order = shuffled(PERIOD, self.seed, "mixture", period)
        sources = _spread(self.shares)[order]
        ranks = np.zeros(PERIOD, dtype=np.int64)
        for source, share in enumerate(self.shares):
            ranks[sources == source] = np.arange(share)
        return sources, ranks


def open_rows(
    store: Store,
    *,
    width: int,
    seed: int | None,
    tokenizer: Tokenizer,
    isolate: bool = False,
    pack: bool = True,
) -> Rows | ShardedRows | MixedRows:
    """The rows of what `prepare` gave; arguments as those of `Rows`.

    In a mixture with packed prompts the texts are isolated too: a batch numbers its documents or
    does not.
    """
    if isinstance(store, MixedStores):
        isolate = isolate or (pack and store.prompts)
    layout: dict[str, Any] = {"tokenizer": tokenizer, "isolate": isolate, "pack": pack}

    def lay_out(part: TokenStore | ShardedStore) -> Rows | ShardedRows:
        if isinstance(part, ShardedStore):
            return ShardedRows(part, width, seed=seed, **layout)
        return Rows(part, width, seed=seed, **layout)

    if isinstance(store, MixedStores):
        return MixedRows([lay_out(part) for part in store.stores], store.weights, seed=seed)
    return lay_out(store)


def _shares(weights: Sequence[float], period: int) -> list[int]:
    """Whole rows of each source in a period, which they fill; at least one (largest remainders)."""
    exact = np.array(weights) / sum(weights) * period
    shares = np.maximum(np.floor(exact), 1).astype(np.int64)
    while shares.sum() != period:
        step = 1 if shares.sum() < period else -1
        behind = np.where(shares + step >= 1, step * (exact - shares), -np.inf)
        shares[behind.argmax()] += step
    return shares.tolist()


def _spread(shares: Sequence[int]) -> np.ndarray:
    """(period,) the source of each row, every source spread evenly."""
    sources = np.repeat(np.arange(len(shares)), shares)
    places = np.concatenate([(np.arange(share) + 0.5) / share for share in shares])
    return sources[np.argsort(places, kind="stable")]
