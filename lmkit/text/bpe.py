"""bpe: learns a vocabulary from text, and keeps it in tiktoken's ranks files; encodes nothing.

    python -m lmkit.text.bpe --vocab-size 4096 --out my.tiktoken FILES...

A ranks file has a line a token: its bytes in base64, a space, its rank. A lower rank merges first.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmkit.errors import DataError, LMKitError, TokenizerError

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
    try:
        trainer.train_from_iterator(iter(texts), vocab_size, pattern=pattern)
    except ValueError as error:
        raise TokenizerError(f"cannot train with this split pattern: {error}") from error
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


def main(argv: Sequence[str] | None = None) -> int:
    """Train on files and folders and write the ranks file."""
    args = _arguments().parse_args(argv)
    try:
        files = _files(args.paths, args.glob, args.without, args.holdout)
        texts = [text for text in map(_read, files) if text is not None]
        ranks = train(texts, args.vocab_size - 1, args.pattern)  # the last id is <|endoftext|>
        write_ranks(ranks, args.out)
    except (LMKitError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 74)
    left_out = len(files) - len(texts)
    print(f"{args.out}: {len(ranks) + 1} entries from {len(texts)} files", end="")
    print(f", {left_out} that are not UTF-8 left out" if left_out else "")
    return 0


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # Python's own tests hold such files on purpose
        return None


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lmkit.text.bpe", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE", help="a file or a folder")
    parser.add_argument("--out", required=True, type=Path, help="the ranks file to write")
    parser.add_argument(
        "--vocab-size", type=int, default=4096, help="entries, with <|endoftext|> (%(default)s)"
    )
    parser.add_argument("--pattern", default=SPLIT_PATTERN, help="how to split text into words")
    parser.add_argument("--glob", default="*", help="files to take from folders (%(default)s)")
    parser.add_argument(
        "--without", nargs="*", default=[], metavar="NAME", help="files and folders to leave out"
    )
    parser.add_argument(
        "--holdout", type=float, default=0.0, help="share of files to leave out, by their path"
    )
    return parser


def _files(paths: Sequence[Path], glob: str, without: Sequence[str], holdout: float) -> list[Path]:
    files = []
    for path in paths:
        if not path.exists():
            raise DataError("no such file or folder", at=path)
        if path.is_file():
            files.append(path)
            continue
        for file in sorted(path.rglob(glob)):
            inside = file.relative_to(path)
            unwanted = set(inside.parts) & set(without) or held_out(inside.as_posix(), holdout)
            if file.is_file() and not unwanted:
                files.append(file)
    if not files:
        raise DataError("no files to train on", at=", ".join(map(str, paths)))
    return files


def held_out(path: str, share: float) -> bool:
    """Whether a file belongs to validation: a coin that only its path decides."""
    number = int(hashlib.sha256(path.encode()).hexdigest()[:8], 16)
    return number % 10_000 < round(share * 10_000)


if __name__ == "__main__":
    sys.exit(main())
