"""lmkit list: what a YAML can name: models, sources, tasks and so on, a few lines each."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from lmkit.cli.describe import first_paragraph, indented
from lmkit.errors import ConfigError, LMKitError, did_you_mean

if TYPE_CHECKING:
    from lmkit.lab.catalogue import Entry
    from lmkit.text import Tokenizer

VOCABULARY = "python4k"  # travels in the package
SHOWN = 240  # characters of a description


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "kind",
        nargs="?",
        default="",
        help="models (with their sizes), tokenizers, templates, sources, datasets, tasks, "
        "objectives, rewards, optimizers, schedules or runners; all of them without it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a paragraph an entry; a plug-in that cannot be opened is told of and left out."""
    from lmkit.lab.catalogue import KINDS, find

    asked = arguments.kind
    if asked and asked not in KINDS:
        hint = did_you_mean(asked, KINDS) or f"there are {', '.join(KINDS)}"
        raise ConfigError(f"there is no kind {asked!r}", hint=hint, at="lmkit list")
    failures: list[LMKitError] = []
    for kind in [asked] if asked else KINDS:
        entries, failures = find(kind)
        print(f"{kind}, for {KINDS[kind].place}\n")
        for entry in entries:
            _show(entry, sized=asked == "models")
        print()
    for failure in failures:
        print(f"{failure.at}: cannot be opened: {failure.what}")
    print(
        "`lmkit describe NAME` shows what it can be given, and so do `lmkit describe experiment`,\n"
        "`stage`, `evaluate`, `checkpoint` and `runner` for the parts of a YAML."
    )
    return 0


def _show(entry: Entry, *, sized: bool) -> None:
    short = f"  ({', '.join(entry.names)})" if entry.names else ""
    print(f"{entry.path}{short}")
    if about := entry.about or first_paragraph(entry.target):
        print(indented(textwrap.shorten(about, SHOWN, placeholder=" ...")))
    if sized:
        from lmkit.text import Tiktoken

        print(indented(_size(entry, Tiktoken(VOCABULARY))))


def _size(entry: Entry, tokenizer: Tokenizer) -> str:
    """`7,340,114 parameters at depth=1, with 4,096 tokens`; nothing is allocated for them."""
    import torch

    from lmkit.config import parameters
    from lmkit.train.loading import build_model

    # 1 is the least that a measure without a default can be
    least = {p.name: 1 for p in parameters(entry.target) if p.required and p.annotation is int}
    shown = ", ".join(f"{name}={value}" for name, value in least.items()) or "its defaults"
    arguments: dict[str, Any] = {"class": entry.path, **least}
    try:
        with torch.device("meta"):
            model = build_model(arguments, tokenizer)
    except LMKitError as error:
        return f"cannot be made with {shown}: {error.what}"
    count = f"{model.parameter_count():,} parameters at {shown}"
    return f"{count}, with the {tokenizer.vocab_size:,} tokens of {VOCABULARY}"
