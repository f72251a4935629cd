"""page: a document as one HTML file, which asks the network for nothing; escapes every text."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from html import escape
from itertools import count
from pathlib import Path

from lmkit import __version__
from lmkit.lab.charts import COLOURS, Chart, draw
from lmkit.lab.document import (
    Block,
    Cell,
    Charts,
    Document,
    Listing,
    Samples,
    Section,
    Table,
    Tiles,
)

STYLE = Path(__file__).with_name("report.css")


def page(document: Document) -> str:
    """The whole file. Its colours follow the reader's light or dark setting."""
    numbers = count()
    sections = "\n".join(_section(section, numbers) for section in document.sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(document.title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<h1>{escape(document.title)}</h1>
<p class="summary">{escape(document.summary)}</p>
{sections}
<footer>lmkit {__version__}</footer>
</main>
</body>
</html>
"""


def _section(section: Section, numbers: Iterator[int]) -> str:
    blocks = "\n".join(_block(block, numbers) for block in section.blocks)
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>"


@singledispatch
def _block(block: Block, numbers: Iterator[int]) -> str:
    return f"<p>{escape(str(block))}</p>"


@_block.register
def _(block: Tiles, numbers: Iterator[int]) -> str:
    tiles = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in block.tiles
    )
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


@_block.register
def _(block: Table, numbers: Iterator[int]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in block.head)
    rows = "\n".join(
        f"<tr><th>{_cell(row[0])}</th>{''.join(f'<td>{_cell(cell)}</td>' for cell in row[1:])}</tr>"
        for row in block.rows
    )
    kind = ' class="words"' if block.words else ""
    top = f"<thead><tr>{head}</tr></thead>\n" if any(block.head) else ""
    return f'<div class="wide"><table{kind}>\n{top}<tbody>\n{rows}\n</tbody></table></div>'


def _cell(cell: Cell) -> str:
    if not cell.note:
        return escape(cell.text)
    return f'{escape(cell.text)}<small class="{escape(cell.tone)}">{escape(cell.note)}</small>'


@_block.register
def _(block: Charts, numbers: Iterator[int]) -> str:
    figures = "\n".join(
        f"<figure>{_caption(chart)}{draw(chart, str(next(numbers)))}</figure>"
        for chart in block.charts
    )
    return f'<div class="charts">\n{figures}\n</div>'


def _caption(chart: Chart) -> str:
    names = "".join(
        f'<span><i class="c{number % COLOURS}"></i>{escape(series.name)}</span>'
        for number, series in enumerate(chart.series)
    )
    note = f"<span>{escape(chart.note)}</span>" if chart.note else ""
    shown = names if len(chart.series) > 1 else ""
    return f"<figcaption>{escape(chart.title)}{shown}{note}</figcaption>"


@_block.register
def _(block: Samples, numbers: Iterator[int]) -> str:
    items = "\n".join(
        f'<li><div class="when">{escape(sample.stage)}<br>step {sample.step:,}</div>'
        f'<p class="written">{escape(sample.text)}</p></li>'
        for sample in block.samples
    )
    prompt = f'<p class="written prompt">{escape(block.prompt)}</p>'
    return f'<div class="samples">{prompt}\n<ol>\n{items}\n</ol></div>'


@_block.register
def _(block: Listing, numbers: Iterator[int]) -> str:
    title, text = escape(block.title), escape(block.text)
    return f"<details><summary>{title}</summary>\n<pre>{text}</pre></details>"
