"""encodings: opens a vocabulary as tiktoken's Encoding, from the package, a file or the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import tiktoken

from lmkit.errors import TokenizerError, did_you_mean
from lmkit.text.bpe import GPT2_PATTERN, SPLIT_PATTERN, read_ranks
from lmkit.text.panic import told

END_OF_TEXT = "<|endoftext|>"
BOS = "<|bos|>"
CHAT_TOKENS = (  # of a trained vocabulary, in the order of their ids, after the merges
    BOS,
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
    "<|system_start|>",
    "<|system_end|>",
)
PACKAGED = {"gpt2": GPT2_PATTERN, "python4k": SPLIT_PATTERN}
VOCABULARIES = Path(__file__).parent / "vocabularies"

# every kind of character and a few neighbours: a split pattern that skips one would lose text
_PROBE = "".join(map(chr, range(256))) + " \n\n\t x'll 12 ３é Ж中🙂\u0301\u200d\u2028_ \r\n  "


@cache  # 40 ms for gpt2's 50,256 ranks: once a process is enough
def named(name: str) -> tiktoken.Encoding:
    """The encoding of that name: one that travels in the package, or one of tiktoken's.

    Raises:
        TokenizerError: there is none of that name, or it cannot be downloaded.
    """
    if name in PACKAGED:
        return from_ranks(VOCABULARIES / f"{name}.tiktoken", PACKAGED[name])
    known = [*PACKAGED, *tiktoken.list_encoding_names()]
    if name not in known:
        hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
        raise TokenizerError(f"there is no vocabulary {name!r}", hint=hint)
    try:
        return tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"cannot download the vocabulary {name!r}: {type(error).__name__}",
            hint=f"set TIKTOKEN_CACHE_DIR to a folder that has it, or use {' or '.join(PACKAGED)}, "
            "which need no network",
        ) from error


def from_ranks(
    path: Path,
    pattern: str | None = None,
    special: Mapping[str, int] | None = None,
    *,
    end_of_text: bool = True,
) -> tiktoken.Encoding:
    """The encoding of a ranks file.

    Args:
        special: special tokens and their ids.
        end_of_text: `<|endoftext|>` is one as well; it gets the id after the last rank.

    Raises:
        TokenizerError: the file is no ranks file, the pattern is wrong or loses characters, or as
            of `with_special`.
    """
    ranks = read_ranks(path)
    end = {END_OF_TEXT: max(ranks.values()) + 1} if end_of_text else {}
    special = _fitting(ranks, end, special or {})
    try:
        encoding = tiktoken.Encoding(
            path.stem,
            pat_str=SPLIT_PATTERN if pattern is None else pattern,
            mergeable_ranks=ranks,
            special_tokens=special,
        )
    except ValueError as error:
        raise TokenizerError(f"the split pattern is wrong: {error}", at=path) from error
    with told("the split pattern cannot be used", hint="let each match take a character", at=path):
        whole = encoding.decode(encoding.encode_ordinary(_PROBE)) == _PROBE
    if not whole:
        raise TokenizerError(
            "the split pattern skips some characters, so text would be lost",
            hint=r"end it with |[\s\S]",
            at=path,
        )
    return encoding


def with_special(encoding: tiktoken.Encoding, special: Mapping[str, int]) -> tiktoken.Encoding:
    """The same encoding with special tokens added, or moved to another id.

    Raises:
        TokenizerError: two tokens would share an id, or most ids would be unused.
    """
    if not special:
        return encoding
    ranks = encoding._mergeable_ranks
    return tiktoken.Encoding(
        encoding.name,
        pat_str=encoding._pat_str,
        mergeable_ranks=ranks,
        special_tokens=_fitting(ranks, encoding._special_tokens, special),
    )


def _fitting(
    ranks: Mapping[bytes, int], before: Mapping[str, int], more: Mapping[str, int]
) -> dict[str, int]:
    """The special tokens of before and those that join them, or move."""
    special = {**before, **more}
    ids = [*ranks.values(), *special.values()]
    if len(set(ids)) < len(ids) or min(ids) < 0 or max(ids) > 2 * len(ids):
        raise TokenizerError(
            f"special tokens need ids of their own, next to the ranks: {special}",
            hint=f"the first free one is {max(*ranks.values(), *before.values()) + 1}",
        )
    return special


def with_names(encoding: tiktoken.Encoding, names: Iterable[str]) -> tiktoken.Encoding:
    """The same encoding; those of the special tokens that it lacks follow its last id."""
    known = [*CHAT_TOKENS, *names]
    missing = sorted(set(names) - set(encoding._special_tokens), key=known.index)
    first = encoding.n_vocab
    return with_special(encoding, {name: first + n for n, name in enumerate(missing)})
