"""lmkit data: the rows that a stage trains on, with what is trained painted."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lmkit.cli.paint import add_color, painted, visible, wants_colour
from lmkit.cli.train import add_experiment, load
from lmkit.errors import ConfigError

if TYPE_CHECKING:
    from lmkit.lab.mask import Document, Row, Span

TRAINED, UNTRAINED, INVERSE = "32", "2", ";7"  # green, dim; a special token's colours are swapped
OPEN, CLOSE = "⟦", "⟧"  # without colour


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action and what it takes."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    summary = "the first rows of a stage: what is trained, where documents begin"
    show = actions.add_parser(
        "show", help=summary, description=summary.capitalize() + ".", allow_abbrev=False
    )
    add_experiment(show)
    show.add_argument("--stage", metavar="NAME", help="the first one by default")
    show.add_argument("-n", "--rows", type=int, default=3, metavar="N", help="default 3")
    add_color(show)
    show.set_defaults(parser=show)


def run(arguments: argparse.Namespace) -> int:
    """Print the rows, each document under a line of its own."""
    if arguments.rows < 1:
        raise ConfigError(f"{arguments.rows} rows are none", at="--rows")
    experiment = load(arguments)

    from lmkit.lab.mask import first_rows

    rows = first_rows(experiment, arguments.stage, arguments.rows)
    colour = wants_colour(arguments)
    mark = "green, the rest dim" if colour else f"between {OPEN} and {CLOSE}"
    print(f"What is trained is {mark}.")
    for number, row in enumerate(rows, 1):
        print("\n".join(["", *draw_row(row, number, colour)]))
    return 0


def draw_row(row: Row, number: int, colour: bool) -> Iterator[str]:
    """A row: its documents below their headings, and how much padding was left out."""
    tokens = sum(document.tokens for document in row.documents)
    trained = sum(document.trained for document in row.documents)
    share = trained / max(tokens + row.padding, 1)
    padding = f", then {row.padding:,} of padding" if row.padding else ""
    yield f"row {number}: {tokens:,} tokens{padding}; {share:.0%} of the row is trained"
    for index, document in enumerate(row.documents, 1):
        heading = f"--- document {index}: {document.tokens:,} tokens, {document.trained:,} trained"
        yield painted(heading, UNTRAINED) if colour else heading
        yield draw_document(document, colour)


def draw_document(document: Document, colour: bool) -> str:
    """Its text; what has no shape is escaped, and a line break shown as one at its place."""
    if colour:
        return "".join(_painted(span) for span in document.spans)
    text, inside = "", False
    for span in document.spans:
        if span.trained != inside:
            text += OPEN if span.trained else CLOSE
            inside = span.trained
        shown = visible(span.text, keep="\n")
        text += shown if span.special else shown.replace("<|", r"<\|")  # it only spells a token
    return text + CLOSE if inside else text


def _painted(span: Span) -> str:
    codes = (TRAINED if span.trained else UNTRAINED) + (INVERSE if span.special else "")
    lines = visible(span.text, keep="\n").split("\n")
    # line by line: a colour that crosses a line's end fills the rest of the terminal
    return (painted("⏎", UNTRAINED) + "\n").join(painted(line, codes) for line in lines)
