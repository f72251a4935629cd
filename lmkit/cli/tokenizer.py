"""lmkit tokenizer: learn a vocabulary, look at what one makes of a text, compare several."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.cli.actions import add_actions
from lmkit.cli.paint import add_color, columns, painted, visible, wants_colour
from lmkit.errors import ConfigError, DataError, TokenizerError

if TYPE_CHECKING:
    from lmkit.data import Source
    from lmkit.lab.compression import Piece
    from lmkit.text import Tokenizer

BASELINE = "gpt2"  # travels in the package
MEASURED = 20_000_000  # characters: two seconds of tiktoken
# black on light blue and light orange, in turn, and white on blue: readable on any terminal
GROUNDS, SPECIAL, DIM = ("30;48;5;153", "30;48;5;223"), "1;97;44", "2"
NAMED = (
    "a vocabulary such as gpt2, a folder, a ranks file, an experiment's YAML, a run, a checkpoint"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three actions and what they take."""
    add_actions(parser, ACTIONS)


def run(arguments: argparse.Namespace) -> int:
    """Do the action."""
    arguments.work(arguments)
    return 0


# --- train ------------------------------------------------------------------------------------


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help="a file, a folder or a glob")
    parser.add_argument(
        "--source",
        metavar="CLASS",
        help="a source's training documents instead: module.Class or {class: ..., key: value}",
    )
    parser.add_argument(
        "--vocab-size", type=int, required=True, help="entries, special tokens counted too"
    )
    parser.add_argument("--out", type=Path, help="the folder to write, tokenizer_SIZE by default")
    parser.add_argument("--pattern", help="how to split text into words; nanochat's by default")
    parser.add_argument(
        "--chat", default="nanochat", help="the chat format to have special tokens for; or plain"
    )
    parser.add_argument("--max-chars", type=int, help="read no more text than this")
    parser.add_argument(
        "--document-chars", type=int, help="the rest of longer documents comes last"
    )


def train(arguments: argparse.Namespace) -> None:
    """Learn a vocabulary, write it, and tell how well it compresses what it was learned from."""
    from lmkit.checkpoints.durable import storage_errors
    from lmkit.data.vocabulary import open_files, train_tokenizer

    if bool(arguments.files) == bool(arguments.source):
        raise ConfigError("give either files or --source", at="lmkit tokenizer train")
    train_on = _source(arguments.source) if arguments.source else arguments.files
    names = ("pattern", "chat", "max_chars", "document_chars")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name)}
    started = time.perf_counter()
    tokenizer = train_tokenizer(train_on, arguments.vocab_size, folder=os.getcwd(), **given)
    seconds = time.perf_counter() - started
    out = arguments.out or Path(f"tokenizer_{arguments.vocab_size}")
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        tokenizer.save(out)
    special = len(tokenizer.special_tokens)
    print(f"{out}: {tokenizer.vocab_size:,} entries, {special} of them special, in {seconds:.1f}s")
    sources = [train_on] if arguments.source else open_files(arguments.files, os.getcwd())
    _print_comparison({str(out): tokenizer}, _beginning(sources))
    print(f"in a YAML: {{class: lmkit.text.tokenizer.Tiktoken, ranks: {out}}}")


def _source(text: str) -> Source:
    """The source that `--source` names."""
    import yaml

    from lmkit.config import Spec, build
    from lmkit.data import Source

    try:
        source = build(Spec.of(yaml.safe_load(text)), folder=os.getcwd())
    except yaml.YAMLError as error:
        raise ConfigError("not a class or a mapping", hint=text, at="--source") from error
    if not isinstance(source, Source):
        raise DataError(f"{text} is no source of documents", at="--source")
    return source


# --- show -------------------------------------------------------------------------------------


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokenizer", help=NAMED)
    parser.add_argument("text", nargs="?", help="- reads stdin; without one: what it is like")
    parser.add_argument(
        "--special", action="store_true", help="read special tokens' names as those tokens"
    )
    add_color(parser)


def show(arguments: argparse.Namespace) -> None:
    """Paint the pieces of a text above their ids; without a text, describe the vocabulary."""
    from lmkit.lab.compression import Compression, pieces

    tokenizer = open_tokenizer(arguments.tokenizer)
    if arguments.text is None:
        print("\n".join(_description(tokenizer)))
        return
    text = sys.stdin.read() if arguments.text == "-" else arguments.text
    found = pieces(tokenizer, text, allow_special=arguments.special)
    width = shutil.get_terminal_size().columns
    print("\n".join(draw_pieces(found, width, wants_colour(arguments))))
    size = Compression(len(text.encode()), len(found))
    print(
        f"{size.tokens:,} tokens, {len(text):,} characters, {size.bytes:,} bytes: "
        f"{size.bytes_per_token:.2f} bytes per token"
    )


def draw_pieces(found: Sequence[Piece], width: int, colour: bool) -> list[str]:
    """Pieces, each above its id; a line ends where a piece has a line break, or at `width`.

    A space is shown as `␣`, a line break as `\\n`, a part of a character as its bytes.
    """
    lines: list[str] = []
    for row in _rows(found, width):
        above, below = [], []
        for number, (piece, text) in row:
            size = max(columns(text), len(str(piece.id)))
            shown = text + " " * (size - columns(text))
            ground = SPECIAL if piece.special else GROUNDS[number % 2]
            above.append(painted(shown, ground) if colour else shown)
            name = str(piece.id).ljust(size)
            below.append(painted(name, DIM) if colour else name)
        lines += [" ".join(above).rstrip(), " ".join(below).rstrip(), ""]
    return lines


def _rows(found: Sequence[Piece], width: int) -> Iterator[list[tuple[int, tuple[Piece, str]]]]:
    """The pieces with their numbers and texts, cut into lines."""
    row: list[tuple[int, tuple[Piece, str]]] = []
    used = 0
    for number, piece in enumerate(found):
        text = visible(piece.bytes.decode("utf-8", "backslashreplace")).replace(" ", "␣")
        size = max(columns(text), len(str(piece.id))) + 1
        if row and used + size > width + 1:
            yield row
            row, used = [], 0
        row.append((number, (piece, text)))
        used += size
        if b"\n" in piece.bytes:
            yield row
            row, used = [], 0
    if row:
        yield row


def _description(tokenizer: Tokenizer) -> Iterator[str]:
    tokens = tokenizer.vocabulary()
    special = tokenizer.special_tokens
    words = [
        token for each, token in enumerate(tokens) if each not in special.values() and token.strip()
    ]
    longest = sorted(words, key=len, reverse=True)[:8]
    shown = [visible(token.decode("utf-8", "backslashreplace")) for token in longest]
    names = {each: name for name, each in special.items()}
    yield f"{type(tokenizer).__name__}, {tokenizer.vocab_size:,} entries"
    yield f"bos      {names.get(tokenizer.bos, '')} {tokenizer.bos}"
    yield f"eos      {names.get(tokenizer.eos, '')} {tokenizer.eos}"
    yield f"special  {', '.join(f'{name} {each}' for each, name in sorted(names.items()))}"
    yield f"longest  {', '.join(repr(text) for text in shown)}"


# --- compare ----------------------------------------------------------------------------------


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokenizers", nargs="+", metavar="TOKENIZER", help=NAMED)
    parser.add_argument(
        "--files", nargs="+", required=True, metavar="FILE", help="files, folders or globs of text"
    )


def compare(arguments: argparse.Namespace) -> None:
    """Print the bytes per token of each on the same text, against gpt2's."""
    from lmkit.data.vocabulary import open_files

    found: dict[str, Tokenizer] = {}
    for name in arguments.tokenizers:
        try:
            found[name] = open_tokenizer(name)
        except TokenizerError as error:
            if not _is_remote(name):
                raise
            print(f"{name} is left out: {error}", file=sys.stderr)
    _print_comparison(found, _beginning(open_files(arguments.files, os.getcwd())))


def _is_remote(name: str) -> bool:
    """Whether it is a vocabulary that tiktoken downloads."""
    import tiktoken

    from lmkit.text.encodings import PACKAGED

    return name in tiktoken.list_encoding_names() and name not in PACKAGED


def _print_comparison(tokenizers: dict[str, Tokenizer], texts: list[str]) -> None:
    from lmkit.lab.compression import measure
    from lmkit.text import Tiktoken
    from lmkit.train.display import readable_count
    from lmkit.train.summary import format_table

    shown = {BASELINE: Tiktoken(BASELINE), **tokenizers}
    sizes = {name: measure(tokenizer, texts) for name, tokenizer in shown.items()}
    base = sizes[BASELINE]
    if not base.bytes:
        raise DataError("there is no text in these files")
    rows = [["", "entries", "tokens", "bytes/token", f"tokens against {BASELINE}"]]
    rows += [
        [
            name,
            f"{shown[name].vocab_size:,}",
            readable_count(size.tokens),
            f"{size.bytes_per_token:.2f}",
            "" if name == BASELINE else f"{size.tokens / base.tokens - 1:+.1%}",
        ]
        for name, size in sizes.items()
    ]
    print(f"{base.bytes / 1e6:,.2f} MB of text")
    print(format_table(rows))


def _beginning(sources: Sequence[Source]) -> list[str]:
    """The text of the sources' documents, as far as it is measured."""
    from lmkit.data.documents import read_documents
    from lmkit.data.vocabulary import texts_of
    from lmkit.lab.compression import beginning

    documents = (document for source in sources for document in read_documents(source, "train"))
    said = (text for document in documents for text in texts_of(document))
    return list(beginning(said, MEASURED))


def open_tokenizer(name: str) -> Tokenizer:
    """The tokenizer that a word means: see NAMED; what lies on the disk comes first.

    Raises:
        TokenizerError: there is none of that name, or it cannot be read.
        CheckpointError: the folder holds none.
    """
    from lmkit.text import Tiktoken, load_tokenizer
    from lmkit.text.tokenizer_folder import ABOUT_FILE

    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml"):
        return _of_experiment(name)
    if (path / ABOUT_FILE).exists():
        return load_tokenizer(path)
    if path.is_dir():
        from lmkit.train.loading import find_checkpoint

        checkpoint = find_checkpoint(path, for_inference=True)
        if tokenizer := checkpoint.tokenizer():
            return tokenizer
        raise TokenizerError("the model was trained without a tokenizer", at=checkpoint.folder)
    return Tiktoken(ranks=path) if path.is_file() else Tiktoken(name)


def _of_experiment(file: str) -> Any:
    from lmkit.config import build, load_experiment

    experiment = load_experiment(file)
    return build(experiment.tokenizer, folder=experiment.folder)


ACTIONS = {
    "train": (_add_train, train, "learn a vocabulary from files or a source"),
    "show": (_add_show, show, "paint what becomes of a text, token by token"),
    "compare": (_add_compare, compare, f"bytes per token of several, against {BASELINE}"),
}
