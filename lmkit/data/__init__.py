"""data: from files and lists to this rank's Batches, in an order that needs only a counter."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmkit.data.corpora import Corpus, HubDataset, PythonStdlib
    from lmkit.data.mixed_rows import MixedRows, open_rows
    from lmkit.data.mixture import MixedStores, Mixture
    from lmkit.data.rows import Rows
    from lmkit.data.shards import TokenShards
    from lmkit.data.sources import InMemory, JsonLines, Parquet, Source, TextFiles
    from lmkit.data.store import TokenStore
    from lmkit.data.stream import BatchStream
    from lmkit.data.tokenise import find_prepared, prepare

__all__ = [
    "BatchStream",
    "Corpus",
    "HubDataset",
    "InMemory",
    "JsonLines",
    "MixedRows",
    "MixedStores",
    "Mixture",
    "Parquet",
    "PythonStdlib",
    "Rows",
    "Source",
    "TextFiles",
    "TokenShards",
    "TokenStore",
    "find_prepared",
    "open_rows",
    "prepare",
]

_HOME = {
    "BatchStream": "stream",
    "Corpus": "corpora",
    "HubDataset": "corpora",
    "InMemory": "sources",
    "JsonLines": "sources",
    "MixedRows": "mixed_rows",
    "MixedStores": "mixture",
    "Mixture": "mixture",
    "Parquet": "sources",
    "PythonStdlib": "corpora",
    "Rows": "rows",
    "Source": "sources",
    "TextFiles": "sources",
    "TokenShards": "shards",
    "TokenStore": "store",
    "find_prepared": "tokenise",
    "open_rows": "mixed_rows",
    "prepare": "tokenise",
}


def __getattr__(name: str) -> Any:
    # opened on first use: sources need no torch, which takes 1.5 s to import
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
