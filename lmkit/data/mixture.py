"""mixture: several sources as one, each with its share; knows no rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmkit.data.cache import fingerprint_of
from lmkit.data.documents import read_documents
from lmkit.data.holdout import Split
from lmkit.data.sharded import ShardedStore
from lmkit.data.sources import Source
from lmkit.data.store import TokenStore
from lmkit.errors import ConfigError
from lmkit.prompts import Prompt


@dataclass(frozen=True)
class Share:
    """A source and how much of the rows it gets, relative to the other weights."""

    source: Source
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(
                f"a weight must be above 0, not {self.weight}",
                hint="leave the source out instead",
                key="weight",
            )


class Mixture(Source):
    """Several sources, texts and prompts alike, mixed row by row.

    Args:
        sources: list of {source: ..., weight: ...}. Each holds out its own documents.
    """

    def __init__(self, sources: list[Share]) -> None:
        if not sources:
            raise ConfigError("a mixture needs a source", key="sources")
        self.shares = [Share(**share) if isinstance(share, Mapping) else share for share in sources]
        if any(isinstance(share.source, Mixture) for share in self.shares):
            raise ConfigError("a mixture in a mixture", hint="write its sources out", key="sources")

    def documents(self, split: Split) -> Iterator[Prompt]:
        for share in self.shares:
            yield from read_documents(share.source, split)

    def fingerprint(self) -> str:
        return fingerprint_of(
            [
                "Mixture",
                [[share.source.fingerprint(), float(share.weight)] for share in self.shares],
            ]
        )

    def describe(self) -> str:
        total = sum(share.weight for share in self.shares)
        return "Mixture: " + "; ".join(
            f"{share.weight / total:.1%} {share.source.describe()}" for share in self.shares
        )

    def available(self) -> bool:
        return all(share.source.available() for share in self.shares)


class MixedStores:
    """The prepared sources of a mixture, those without a document left out.

    Attributes:
        stores: the store of each source.
        weights: of the same sources.
    """

    def __init__(
        self, stores: Sequence[TokenStore | ShardedStore], weights: Sequence[float]
    ) -> None:
        kept = [pair for pair in zip(stores, weights, strict=True) if pair[0].document_count]
        self.stores = [store for store, _ in kept]
        self.weights = [weight for _, weight in kept]

    @property
    def token_count(self) -> int:
        """Tokens of all sources together."""
        return sum(store.token_count for store in self.stores)

    @property
    def document_count(self) -> int:
        """Documents of all sources together."""
        return sum(store.document_count for store in self.stores)

    @property
    def prompts(self) -> bool:
        """True if any of them holds prompts."""
        return any(store.prompts for store in self.stores)

    @property
    def about(self) -> str:
        """What they are, in one line."""
        return "; ".join(store.about for store in self.stores)

    @property
    def notes(self) -> dict[str, Any]:
        """The notes of each source that has any, under its description."""
        return {store.about: store.notes for store in self.stores if store.notes}


Store = TokenStore | ShardedStore | MixedStores
"""What `prepare` gives: of a source, of one that is read shard by shard, of a mixture."""
