"""peek: the beginning of a source, tokenised, and how much more there is; reads no whole corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmkit.data import (
    InMemory,
    MixedStores,
    Mixture,
    Source,
    TokenShards,
    TokenStore,
    find_prepared,
    prepare,
)
from lmkit.data.cache import cache_folder
from lmkit.data.documents import read_documents
from lmkit.data.holdout import Split
from lmkit.prompts import Prompt
from lmkit.text import Tokenizer

# Characters: half a second of tiktoken, and more than the first rows of any experiment need.
ENOUGH = 2_000_000


@dataclass(frozen=True)
class Peek:
    """What was seen of a source's training documents.

    Attributes:
        store: their beginning, or all of them.
        share: how much of the source that is: 1 when it was counted, less when it is estimated
            from the size of the files, None when nothing tells.
    """

    store: TokenStore | MixedStores
    share: float | None

    @property
    def tokens(self) -> int | None:
        """Of the whole source."""
        return None if self.share is None else round(self.store.token_count / self.share)


def peek(
    source: Source, tokenizer: Tokenizer, *, include_prompts: bool, max_len: int, cache: Path
) -> Peek:
    """Tokenise the first documents of a source; all of it where an earlier start did.

    Args:
        cache: where to put what is tokenised; may be deleted afterwards.

    Raises:
        DataError: as `prepare`, for the documents that are read.
    """
    options: dict[str, Any] = {"include_prompts": include_prompts, "max_len": max_len}
    if not isinstance(source, Mixture):
        return Peek(*_look(source, tokenizer, cache, options))
    looks = [_look(part.source, tokenizer, cache, options) for part in source.shares]
    mixed = MixedStores([store for store, _ in looks], [part.weight for part in source.shares])
    sizes = [store.token_count / share for store, share in looks if share]
    known = len(sizes) == len(looks)
    return Peek(mixed, mixed.token_count / (sum(sizes) or 1) if known else None)


def _look(
    source: Source, tokenizer: Tokenizer, cache: Path, options: dict[str, Any]
) -> tuple[TokenStore, float | None]:
    """What there is of a single source at hand, and its share."""
    if isinstance(source, TokenShards):  # there is nothing to tokenise
        return source.store(tokenizer, "train", cache_folder()), 1.0
    if found := find_prepared(source, tokenizer, "train", **options):
        return found, 1.0
    begun = _Beginning(source)
    store = prepare(begun, tokenizer, "train", cache=cache, progress=False, **options)
    assert isinstance(store, TokenStore)  # only a mixture has several
    return store, begun.share


class _Beginning(InMemory):
    """The first documents of a source, under its name."""

    def __init__(self, source: Source) -> None:
        self._about = source.describe()
        self._bytes = 0
        self._cut = False
        super().__init__(list(self._first(read_documents(source, "train"))))
        self.share = self._share_of(source.size("train"))

    def documents(self, split: Split) -> Iterator[Prompt]:
        return iter(self.prompts)

    def describe(self) -> str:
        return self._about

    def _first(self, documents: Iterator[Prompt]) -> Iterator[Prompt]:
        left = ENOUGH
        for document in documents:
            if left <= 0:
                self._cut = True
                return
            if document.text is not None and len(document.text) > left:
                document, self._cut = replace(document, text=document.text[:left]), True
            said = list(document.said)
            left -= sum(map(len, said))
            self._bytes += sum(len(text.encode("utf-8", "replace")) for text in said)
            yield document

    def _share_of(self, size: int | None) -> float | None:
        if not self._cut:
            return 1.0
        return min(1.0, self._bytes / size) if size else None
