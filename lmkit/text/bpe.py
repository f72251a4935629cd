"""bpe: learns a vocabulary from text, and keeps it in tiktoken's ranks files; encodes nothing.

A ranks file has a line a token: its bytes in base64, a space, its rank. A lower rank merges first.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path

from lmkit.errors import TokenizerError
from lmkit.text.panic import told

GPT2_PATTERN = (  # openai/gpt-2, encoder.py, as tiktoken writes it: the same splits, faster
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
)
SPLIT_PATTERN = (  # GPT-4's with digits in pairs, as nanochat has it
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"""
    r"""| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"""
)  # A line's end that keeps the next indent makes 6 % fewer tokens of Python, and a worse model:
# 1.777 bits per byte against 1.746 after 1.2 million tokens (4 layers x 192, 4,096 entries).


def train(texts: Iterable[str], vocab_size: int, pattern: str = SPLIT_PATTERN) -> dict[bytes, int]:
    """Learn byte-pair merges; the same texts give the same ranks.

    Args:
        texts: documents; each is split by `pattern`, and no merge crosses a split.
        vocab_size: ranks to learn, the 256 single bytes included, special tokens not.
        pattern: a regular expression in tiktoken's dialect.

    Returns:
        rank of each token's bytes; fewer than vocab_size if the text has no more pairs to merge.

    Raises:
        TokenizerError: rustbpe is not installed, vocab_size is under 256, the pattern is wrong.
    """
    try:
        import rustbpe
    except ImportError as error:
        raise TokenizerError(
            "training a vocabulary needs rustbpe", hint="pip install 'lmkit[bpe]'"
        ) from error
    if vocab_size < 256:
        raise TokenizerError(f"a vocabulary of {vocab_size} cannot hold the 256 bytes")
    trainer = rustbpe.Tokenizer()
    with told("cannot train with this split pattern"):
        trainer.train_from_iterator(iter(texts), vocab_size, pattern=pattern)
    return {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}


def write_ranks(ranks: dict[bytes, int], path: str | Path) -> None:
    """Write a ranks file, lowest rank first."""
    lines = (
        b"%b %d\n" % (base64.b64encode(token), rank)
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
    )
    Path(path).write_bytes(b"".join(lines))


def read_ranks(path: str | Path) -> dict[bytes, int]:
    """Read a ranks file.

    Raises:
        TokenizerError: no such file, a line that is not a token and a rank (with its number), a
            token or a rank that comes twice, ranks far apart, a single byte that has no rank.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise TokenizerError(f"cannot read the ranks file: {error.strerror}", at=path) from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        try:
            token, rank = line.split(b" ")
            ranks[base64.b64decode(token, validate=True)] = _rank(rank)
        except (ValueError, binascii.Error) as error:
            raise TokenizerError(
                f"not a token in base64 and its rank: {line[:40]!r}", at=f"{path}:{number}"
            ) from error
    _check(ranks, len(lines), path)
    return ranks


def _rank(text: bytes) -> int:
    if not text.isdigit():
        raise ValueError(text)
    return int(text)


def _check(ranks: dict[bytes, int], lines: int, path: str | Path) -> None:
    if len(ranks) < lines or len(set(ranks.values())) < lines:
        raise TokenizerError("a token or a rank comes twice", at=path)
    if lines and max(ranks.values()) > 2 * lines:  # p50k_base has one gap; all else is a mistake
        raise TokenizerError(f"{lines} tokens have ranks up to {max(ranks.values())}", at=path)
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise TokenizerError(
            f"{len(missing)} of the 256 single bytes have no rank, the first is {missing[0]}",
            hint="the file is cut short or is no byte-level vocabulary",
            at=path,
        )
