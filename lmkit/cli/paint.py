"""paint: colour where a terminal shows it, and characters that nobody sees made visible."""

from __future__ import annotations

import argparse
import os
import sys
import unicodedata

PLAIN = "\x1b[0m"


def add_color(parser: argparse.ArgumentParser) -> None:
    """Add the option that asks for colour where there is no terminal."""
    parser.add_argument(
        "--color",
        action="store_true",
        help="colour although the output is no terminal, or NO_COLOR is set",
    )


def wants_colour(arguments: argparse.Namespace) -> bool:
    """True for a terminal without NO_COLOR (no-color.org), and where `--color` asks for it."""
    return arguments.color or (sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def painted(text: str, codes: str) -> str:
    """The text between escape codes such as `2` (dim) or `1;32` (bold green)."""
    return f"\x1b[{codes}m{text}{PLAIN}" if text else ""


def visible(text: str, keep: str = "") -> str:
    r"""Printable characters as they are, all others, those in `keep` apart, escaped: `\n`."""
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def columns(text: str) -> int:
    """How many columns of a terminal a printable text takes."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
