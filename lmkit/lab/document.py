"""document: sections of tables, curves and texts; the same for a page and for Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from lmkit.lab.charts import Chart
from lmkit.lab.run_history import Sample


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a value, a remark under it, and whether that is good news."""

    text: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first column is words, the others are numbers unless `words`."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: bool = False


@dataclass(frozen=True)
class Tiles:
    """The few numbers to look at first, each with its name."""

    tiles: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Charts:
    """Curves, side by side where there is room."""

    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Samples:
    """What the model wrote after one prompt, as time went by."""

    prompt: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Listing:
    """A long text to look things up in."""

    title: str
    text: str


Block = str | Table | Tiles | Charts | Samples | Listing


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """Sections under a title."""

    title: str
    summary: str
    sections: tuple[Section, ...]
