"""vocabulary: a tokenizer learned from a source, once; encodes nothing itself."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmkit.data.bar import progress_bar
from lmkit.data.cache import cache_folder, fingerprint_of, publish
from lmkit.data.documents import read_documents
from lmkit.data.files import find_files
from lmkit.data.sources import JsonLines, Parquet, Source, TextFiles
from lmkit.errors import ConfigError, DataError, TokenizerError
from lmkit.prompts import Prompt
from lmkit.text.bpe import SPLIT_PATTERN, train, write_ranks
from lmkit.text.panic import check_unicode
from lmkit.text.tokenizer import Tiktoken
from lmkit.text.tokenizer_folder import RANKS_FILE

logger = logging.getLogger(__name__)

BYTES = {bytes([byte]): byte for byte in range(256)}
FORMAT = 1  # of what is cached
TABLES = {
    (".parquet",): Parquet,
    (".jsonl", ".jsonl.gz", ".jsonl.zst"): JsonLines,
}


def train_tokenizer(
    train_on: str | list[str] | Source,
    vocab_size: int,
    *,
    pattern: str = SPLIT_PATTERN,
    max_chars: int = 2_000_000_000,
    document_chars: int = 10_000,
    chat: str | None = "nanochat",
    folder: str | None = None,
) -> Tiktoken:
    """Learn a byte-pair vocabulary; the same text gives the same one, and is read once.

    The ranks lie in the cache under the fingerprint of the source and of these settings, so a
    resumed run, and every rank of it, finds them there. A checkpoint holds its own copy.

    Args:
        train_on: a source, of which only the training documents are read; or files, folders and
            globs, which are read whole (.jsonl and .parquet as tables, all else as text).
        vocab_size: entries, all counted: the 256 bytes, the merges and the special tokens.
        pattern: how text is split into words, which no merge crosses; in tiktoken's dialect.
        max_chars: read no more text than this.
        document_chars: of longer documents the rest comes after the beginnings of all, as far as
            max_chars leaves room: a few long ones shall not decide.
        chat: the chat format, whose special tokens follow the merges.
        folder: where relative paths begin.

    Raises:
        TokenizerError: rustbpe is not installed, vocab_size is too small, the pattern is wrong.
        DataError: there is no text, or it cannot be read.
    """
    for key, value in {"max_chars": max_chars, "document_chars": document_chars}.items():
        if value < 1:
            raise ConfigError(f"{key} must be at least 1, not {value}", key=key)
    least = _without_merges(pattern, chat, folder).vocab_size
    if vocab_size < least:
        raise ConfigError(
            f"a vocabulary of {vocab_size} cannot hold the {len(BYTES)} bytes and "
            f"{least - len(BYTES)} special tokens",
            hint=f"the least is {least}",
            key="vocab_size",
        )
    sources = [train_on] if isinstance(train_on, Source) else open_files(train_on, folder)
    ranks = vocab_size - least + len(BYTES)
    contents = [source.fingerprint() for source in sources]
    about = [FORMAT, contents, ranks, pattern, max_chars, document_chars]

    def write(aside: Path) -> None:
        texts = _texts(sources, max_chars, document_chars)
        write_ranks(train(texts, ranks, pattern), aside / RANKS_FILE)

    learned = publish(cache_folder() / "vocabularies" / fingerprint_of(about)[:32], write)
    tokenizer = _with_chat(learned / RANKS_FILE, pattern, chat, folder)
    if tokenizer.vocab_size < vocab_size:
        logger.warning(
            "the text has no more pairs to merge: %s entries, not %s",
            f"{tokenizer.vocab_size:,}", f"{vocab_size:,}",
        )  # fmt: skip
    return tokenizer


def open_files(patterns: str | list[str], folder: str | None) -> list[Source]:
    """Files, folders and globs as sources that hold nothing out: whoever names them means them.

    Raises:
        DataError: a pattern matches no file.
    """
    kinds: dict[type[Source], list[str]] = {}
    for file in find_files(patterns, folder):
        named = (kind for ends, kind in TABLES.items() if file.name.endswith(ends))
        kinds.setdefault(next(named, TextFiles), []).append(str(file.path))
    return [kind(paths, holdout=0.0) for kind, paths in kinds.items()]  # type: ignore[call-arg]


def texts_of(document: Prompt) -> Iterator[str]:
    """All that is said in a document, whatever its shape."""
    said = [document.text, document.prompt, document.truth, document.chosen, document.rejected]
    yield from (text for text in said if text)
    yield from (part.text for message in document.messages for part in message.parts)


def _texts(sources: Sequence[Source], max_chars: int, document_chars: int) -> Iterator[str]:
    """The training text: the beginnings of all documents, then what is left of the long ones."""
    left = max_chars
    longer = False
    with progress_bar("learning a vocabulary", None, " characters") as bar:
        for part in (slice(document_chars), slice(document_chars, None)):
            if part.start and not longer:
                break
            for text, at in _documents(sources):
                longer = longer or len(text) > document_chars
                taken = text[part][:left]
                if taken:
                    _check(taken, at)
                    yield taken
                    bar.update(len(taken))
                    left -= len(taken)
                if not left:
                    return
    if left == max_chars:
        raise DataError("there is no text to learn a vocabulary from", at=sources[0].describe())


def _documents(sources: Sequence[Source]) -> Iterator[tuple[str, str]]:
    """(text, where it was read) of the training documents."""
    for source in sources:
        for document in read_documents(source, "train"):
            for text in texts_of(document):
                yield text, document.at


def _check(text: str, at: str) -> None:
    try:
        check_unicode(text)
    except TokenizerError as error:
        raise DataError(error.what, hint=error.hint, at=at or None) from error


def _without_merges(pattern: str, chat: str | None, folder: str | None) -> Tiktoken:
    """The least vocabulary: its bytes and special tokens. Refuses a bad pattern before training."""
    with tempfile.TemporaryDirectory(prefix="lmkit-") as place:
        write_ranks(BYTES, Path(place, RANKS_FILE))
        try:
            return _with_chat(Path(place, RANKS_FILE), pattern, chat, folder)
        except TokenizerError as error:
            if str(error.at).startswith(place):  # a file that nobody wrote, and is gone
                error.at = None
            raise


def _with_chat(ranks: Path, pattern: str, chat: str | None, folder: str | None) -> Tiktoken:
    return Tiktoken(ranks=ranks, pattern=pattern, chat=chat, folder=folder)
