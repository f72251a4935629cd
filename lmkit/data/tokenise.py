"""tokenise: a source and a tokenizer become a store of tokens, once; knows no rows.

Documents are read and encoded in chunks of about a megabyte, so that memory stays bounded however
much text there is, and several chunks are encoded at once: tiktoken works outside the interpreter's
lock.
"""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from lmkit.data.cache import cache_folder, fingerprint_of, publish
from lmkit.data.holdout import Split
from lmkit.data.mixture import MixedStores, Mixture, Share, Store
from lmkit.data.sharded import ShardedStore
from lmkit.data.shards import TokenShards
from lmkit.data.sources import Source
from lmkit.data.store import FORMAT, StoreWriter, TokenStore
from lmkit.errors import DataError, TokenizerError
from lmkit.prompts import Prompt
from lmkit.text import Tokenizer, encode_prompt, trim
from lmkit.text.pairs import encode_pair, trim_pair

CHUNK = 2**20  # characters encoded in one go
# between a letter and white space every split pattern in use has a boundary (those of GPT-2,
# cl100k, o200k and python4k): cut there, a text gets the same ids as in one piece
_BOUNDARY = re.compile(r"[^\W\d_](?=[ \n])")
_NOTHING = np.zeros(0, dtype=np.int64)


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
    first = next(source.documents(split), None)
    prompts = first is not None and first.text is None

    def write(aside: Path) -> None:
        encode = _prompt_encoder(tokenizer, options) if prompts else _text_encoder(tokenizer)
        bar = tqdm(
            total=source.size(split),
            desc=f"tokenising {split}",
            unit="B",
            unit_scale=True,
            file=sys.stderr,
            disable=not options.progress,
            delay=0.5,  # seconds; a small source is done before a bar can be read
        )
        with StoreWriter(aside, tokenizer, prompts=prompts) as writer, bar:
            parts = _parts(source.documents(split), whole=prompts)
            notes = _tokenise(parts, encode, writer, bar, options.threads)
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


class _Part(NamedTuple):
    """A document, or a stretch of a long text; `last` ends the document."""

    document: Prompt
    text: str
    last: bool = True


class _Encoded(NamedTuple):
    """The tokens of a part, without bos; `notes` says what happened to them."""

    part: _Part
    ids: np.ndarray
    mask: np.ndarray | None = None
    notes: tuple[str, ...] = ()


_Encode = Callable[[_Part], _Encoded]


def _text_encoder(tokenizer: Tokenizer) -> _Encode:
    """Texts: their ids, and eos if it is another token than the bos of the next document."""
    end = np.array([tokenizer.eos] if tokenizer.eos != tokenizer.bos else [], dtype=np.int64)

    def encode(part: _Part) -> _Encoded:
        if not part.text:
            return _Encoded(part, _NOTHING, notes=("empty",))
        ids = tokenizer.encode_array(part.text)
        return _Encoded(part, np.concatenate([ids, end]) if part.last and end.size else ids)

    return encode


def _prompt_encoder(tokenizer: Tokenizer, options: _Options) -> _Encode:
    """Prompts: the sample's ids and mask, trimmed; left out if nothing of it is trained."""

    def encode(part: _Part) -> _Encoded:
        if options.pairs:
            whole = encode_pair(tokenizer, part.document)
            sample = trim_pair(whole, options.max_len)
        else:
            asked = options.include_prompts
            whole = encode_prompt(tokenizer, part.document, include_prompts=asked)
            sample = trim(whole, options.max_len)
        notes: tuple[str, ...] = ("trimmed",) if len(sample.ids) < len(whole.ids) else ()
        if _calls_tools(part.document) and not tokenizer.chat.shows_tools:
            notes += ("tools_left_out",)
        if not sample.trained:
            return _Encoded(part, _NOTHING, _NOTHING, (*notes, "without_target"))
        return _Encoded(part, sample.ids[1:], sample.mask[1:], notes)

    return encode


def _calls_tools(prompt: Prompt) -> bool:
    return any(part.type == "python" for turn in prompt.messages for part in turn.parts)


def _tokenise(
    parts: Iterable[_Part], encode: _Encode, writer: StoreWriter, bar: tqdm[Any], threads: int
) -> dict[str, Any]:
    """Encode and write all parts in their order.

    Returns:
        for every kind of note how many documents have it, and the place of the first one.
    """
    notes: dict[str, Any] = {}

    def encode_chunk(chunk: list[_Part]) -> list[_Encoded]:
        return [_located(encode, part) for part in chunk]

    for encoded in _in_parallel(encode_chunk, _chunks(parts), threads):
        for part, ids, mask, found in encoded:
            writer.write(ids, mask)
            if part.last:
                writer.end_document()
            for note in found:
                notes[note] = notes.get(note, 0) + 1
                notes.setdefault(f"first_{note}", part.document.at)
            bar.update(_size(part))
    if "without_target" in notes and not writer.document_count:
        raise DataError(
            f"none of the {notes['without_target']:,} prompts has anything to train",
            hint="the answers are empty, or max_len is too small to reach them",
            at=notes["first_without_target"],
        )
    return notes


def _parts(documents: Iterable[Prompt], whole: bool) -> Iterator[_Part]:
    """The documents; long texts cut, so that no part is much longer than a chunk."""
    for document in documents:
        if (document.text is None) != whole:
            raise DataError(
                "texts and prompts in one source", hint="make two, and a Mixture", at=document.at
            )
        text = document.text or ""
        start = 0
        while len(text) - start > CHUNK and (cut := _BOUNDARY.search(text, start + CHUNK)):
            yield _Part(document, text[start : cut.end()], last=False)
            start = cut.end()
        yield _Part(document, text[start:])


def _chunks(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    chunk: list[_Part] = []
    size = 0
    for part in parts:
        chunk.append(part)
        size += _size(part)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(part: _Part) -> int:
    """Characters to encode; of a text those of the part."""
    return len(part.text) if part.document.text is not None else sum(map(len, part.document.said))


def _located(encode: _Encode, part: _Part) -> _Encoded:
    """The part encoded; an error about its text says where it stands."""
    try:
        return encode(part)
    except (TokenizerError, DataError) as error:
        raise DataError(error.what, hint=error.hint, at=part.document.at) from error


def _in_parallel(
    work: Callable[[list[_Part]], list[_Encoded]], chunks: Iterable[list[_Part]], threads: int
) -> Iterator[list[_Encoded]]:
    """`work` of each chunk, in order; a few are under way at once, so memory stays bounded."""
    waiting: deque[Future[list[_Encoded]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for chunk in chunks:
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
