"""markdown: a document as Markdown, its curves as a line of blocks each; escapes every text."""

from __future__ import annotations

import re
from functools import singledispatch

from lmkit.lab.charts import sparkline
from lmkit.lab.document import Block, Cell, Charts, Document, Listing, Samples, Table, Tiles

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&])")


def markdown(document: Document) -> str:
    """The whole text, in GitHub's dialect."""
    parts = [f"# {_escaped(document.title)}", _escaped(document.summary)]
    for section in document.sections:
        parts += [f"## {_escaped(section.title)}", *map(_block, section.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


@singledispatch
def _block(block: Block) -> str:
    return _escaped(str(block))


@_block.register
def _(block: Tiles) -> str:
    return "\n".join(f"- {_escaped(name)}: **{_escaped(value)}**" for name, value in block.tiles)


@_block.register
def _(block: Table) -> str:
    marks = [":--" if number == 0 or block.words else "--:" for number in range(len(block.head))]
    rows = [[_escaped(name) for name in block.head], marks]
    rows += [[_cell(cell) for cell in row] for row in block.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(cell: Cell) -> str:
    return _escaped(f"{cell.text} ({cell.note})" if cell.note else cell.text)


@_block.register
def _(block: Charts) -> str:
    """What an image would show, as far as text can."""
    lines = ["| curve | first | last | |", "| :-- | --: | --: | :-- |"]
    for chart in block.charts:
        for series in chart.series:
            first, last = (chart.write(series.points[at][1]) for at in (0, -1))
            name = chart.title if chart.title == series.name else f"{chart.title}, {series.name}"
            lines.append(f"| {_escaped(name)} | {first} | {last} | {sparkline(series.points)} |")
    return "\n".join(lines)


@_block.register
def _(block: Samples) -> str:
    parts = [f"After\n\n{_fenced(block.prompt)}"]
    parts += [
        f"{_escaped(sample.stage)}, step {sample.step:,}:\n\n{_fenced(sample.text)}"
        for sample in block.samples
    ]
    return "\n\n".join(parts)


@_block.register
def _(block: Listing) -> str:
    return f"{_escaped(block.title)}:\n\n{_fenced(block.text, 'yaml')}"


def _fenced(text: str, kind: str = "") -> str:
    """A block of code that the text cannot end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(longest + 1, 3)
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
