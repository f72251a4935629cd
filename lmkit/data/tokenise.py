"""tokenise: a source and a tokenizer become a store of tokens, once; knows no rows."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from lmkit.data.bar import progress_bar
from lmkit.data.cache import cache_folder, fingerprint_of, publish
from lmkit.data.documents import read_documents
from lmkit.data.encoder import Encoded, cut, encode_all, prompt_encoder, text_encoder
from lmkit.data.holdout import Split
from lmkit.data.mixture import MixedStores, Mixture, Share, Store
from lmkit.data.sharded import ShardedStore
from lmkit.data.shards import TokenShards
from lmkit.data.sources import Source
from lmkit.data.store import FORMAT, StoreWriter, TokenStore
from lmkit.errors import DataError
from lmkit.text import Tokenizer


def prepare(
    source: Source,
    tokenizer: Tokenizer,
    split: Split,
    *,
    include_prompts: bool = True,
    max_len: int,
    pairs: bool = False,
    whole: bool = True,
    cache: Path | None = None,
    progress: bool = True,
) -> Store:
    """The tokens of one split of a source, from the cache if they were made before.

    The cache's key is the source's content and settings, the tokenizer and the format; for prompts
    also the two options. Of several processes one tokenises and the others wait for it, so call
    this before the ranks connect: no collective waits then.

    Args:
        include_prompts: train what is asked too, not the answers only (texts: no matter).
        max_len: prompts are trimmed to max_len + 1 tokens (texts: no matter).
        pairs: the prompts are preferences, `{prompt, chosen, rejected}`: see `lmkit.text.pairs`.
        whole: False: of a source in shards make the first only, and the others while it is used;
            until then the number of rows is an estimate.
        cache: default `cache_folder()`.
        progress: show a bar on stderr.

    Raises:
        DataError: a document cannot be read or encoded (names file and line), or no prompt has a
            target left. An empty split is no error: its store has no documents.
        PluginError: the source's own code fails.
        StorageError: the cache cannot be written.
    """
    cache = cache or cache_folder()
    options = _Options(include_prompts, max_len, pairs, cache, progress, os.cpu_count() or 1)
    parts = source.shares if isinstance(source, Mixture) else [Share(source)]
    stores = [_prepare_part(part.source, tokenizer, split, options, whole) for part in parts]
    if isinstance(source, Mixture):
        return MixedStores(stores, [share.weight for share in source.shares])
    return stores[0]


def find_prepared(
    source: Source,
    tokenizer: Tokenizer,
    split: Split,
    *,
    include_prompts: bool = True,
    max_len: int,
    cache: Path | None = None,
) -> TokenStore | None:
    """What an earlier `prepare` of these arguments left in the cache; None if it has to be made.

    For a single source; those of a mixture are prepared one by one.
    """
    options = _Options(include_prompts, max_len, False, cache or cache_folder(), False)
    return _in_cache(_folders(source, tokenizer, split, options))


class _Options(NamedTuple):
    include_prompts: bool
    max_len: int
    pairs: bool
    cache: Path
    progress: bool
    threads: int = 1


def _prepare_part(
    source: Source, tokenizer: Tokenizer, split: Split, options: _Options, whole: bool
) -> TokenStore | ShardedStore:
    """The tokens of a source that is no mixture."""
    shards = source.shards(split)
    if shards is None:
        return _prepare(source, tokenizer, split, options)
    later = options._replace(progress=False)
    if not whole:  # the other threads are the training's
        later = later._replace(threads=max(1, options.threads // 4))
    makers = [
        partial(_prepare, shard, tokenizer, "all", later if number else options)
        for number, shard in enumerate(shards)
    ]
    store = ShardedStore(makers, source.describe())
    store.shard(0)
    if whole:
        store.complete(options.progress)
    return store


def _prepare(source: Source, tokenizer: Tokenizer, split: Split, options: _Options) -> TokenStore:
    if isinstance(source, TokenShards):
        return source.store(tokenizer, split, options.cache)
    folders = _folders(source, tokenizer, split, options)
    if store := _in_cache(folders):
        return store
    first = next(read_documents(source, split), None)
    prompts = first is not None and first.text is None

    def write(aside: Path) -> None:
        encode = text_encoder(tokenizer)
        if prompts:
            asked, max_len = options.include_prompts, options.max_len
            encode = prompt_encoder(tokenizer, max_len, include_prompts=asked, pairs=options.pairs)
        size, shown = source.size(split), options.progress
        bar = progress_bar(f"tokenising {split}", size, "B", shown=shown)
        with StoreWriter(aside, tokenizer, prompts=prompts) as writer, bar:
            parts = cut(read_documents(source, split), prompts=prompts)
            notes = _write(encode_all(parts, encode, options.threads), writer, bar)
            writer.finish(source.describe(), notes)

    folder = folders["prompts" if prompts else "texts"]
    return TokenStore(publish(folder, write, quiet=not options.progress))


def _folders(
    source: Source, tokenizer: Tokenizer, split: Split, options: _Options
) -> dict[str, Path]:
    """Where the store lies, or will lie, if the documents are texts, and if they are prompts."""
    about = [FORMAT, source.fingerprint(), tokenizer.fingerprint, split]
    of_prompts = [options.include_prompts, options.max_len, *["pairs"] * options.pairs]
    ways = {"texts": about, "prompts": [*about, *of_prompts]}
    return {
        kind: options.cache / "tokens" / fingerprint_of([kind, *key])[:32]
        for kind, key in ways.items()
    }


def _in_cache(folders: dict[str, Path]) -> TokenStore | None:
    """The store that is there; which of the two it is needs no look into the source."""
    found = next((folder for folder in folders.values() if folder.is_dir()), None)
    return None if found is None else TokenStore(found)


def _write(encoded: Iterable[Encoded], writer: StoreWriter, bar: tqdm[Any]) -> dict[str, Any]:
    """Write all parts.

    Returns:
        for every kind of note how many documents have it, and the place of the first one.
    """
    notes: dict[str, Any] = {}
    for part, ids, mask, found in encoded:
        writer.write(ids, mask)
        if part.last:
            writer.end_document()
        for note in found:
            notes[note] = notes.get(note, 0) + 1
            notes.setdefault(f"first_{note}", part.document.at)
        bar.update(part.size)
    if "without_target" in notes and not writer.document_count:
        raise DataError(
            f"none of the {notes['without_target']:,} prompts has anything to train",
            hint="the answers are empty, or max_len is too small to reach them",
            at=notes["first_without_target"],
        )
    return notes
