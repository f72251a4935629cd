"""charts: series of numbers over steps, drawn as SVG; knows no run and takes its colours from CSS.

Plain SVG: it needs no plotting package, follows the page from light to dark, and stays sharp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, median

Points = Sequence[tuple[int, float]]

WIDTH, HEIGHT = 520, 250  # units of the drawing; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 26, 26  # margins
LEAST_SHARE = 0.15  # of the width for a stage: one of 50 steps after 10,000 is to be seen too
MOST_POINTS = 300  # over the whole width; of more, neighbours are averaged
SMOOTH = 40  # points from which on a curve is smoothed, over 1/40 of them
TICK = 80  # units between two steps on the axis
COLOURS = 6  # that the stylesheet has
BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Span:
    """A stage on the axis of steps: its first and last step."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Series:
    """A curve.

    Args:
        noisy: it is drawn smooth, with its own values faint behind it.
        dots: every point is marked.
        errors: (step, standard error), drawn as bars on the points of the same steps.
    """

    name: str
    points: Points
    noisy: bool = False
    dots: bool = False
    errors: Points = ()


@dataclass(frozen=True)
class Chart:
    """Curves over the steps of a run's stages.

    Args:
        write: a value as text, for the axis.
    """

    title: str
    series: tuple[Series, ...]
    spans: tuple[Span, ...]
    note: str = ""
    write: Callable[[float], str] = "{:.4g}".format


def draw(chart: Chart, key: str = "") -> str:
    """The chart as an `<svg>` element; every text in it is escaped.

    Args:
        key: tells its ids from those of other charts on the page.
    """
    across = _Steps(chart.spans)
    up = _Values(chart, across)
    parts = [
        *_stages(chart.spans, across),
        *_grid(chart, up),
        f'<clipPath id="frame{key}"><rect x="{LEFT - 6}" y="{TOP - 4}" '
        f'width="{WIDTH - LEFT - RIGHT + 12}" height="{HEIGHT - TOP - BOTTOM + 8}"/></clipPath>',
        f'<g clip-path="url(#frame{key})">',
    ]
    for number, series in enumerate(chart.series):
        parts += [f'<g class="series c{number % COLOURS}">', *_curve(series, across, up), "</g>"]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">'
        + "".join([*parts, "</g></svg>"])
    )


def sparkline(points: Points, width: int = 24) -> str:
    """A curve in block characters: `▇▅▃▂▁`."""
    values = [value for _, value in _thinned(points, width)]
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in values)


class _Steps:
    """Where a step stands from left to right: each stage has its own scale."""

    def __init__(self, spans: Sequence[Span]) -> None:
        lengths = [span.last - span.first + 1 for span in spans]
        shares = [max(length / sum(lengths), LEAST_SHARE) for length in lengths]
        self._places: list[tuple[Span, float, float]] = []
        left = float(LEFT)
        for span, share in zip(spans, shares, strict=True):
            width = (WIDTH - LEFT - RIGHT) * share / sum(shares)
            self._places.append((span, left, width))
            left += width

    def __call__(self, step: int) -> float:
        span, left, width = next(
            (place for place in self._places if step <= place[0].last), self._places[-1]
        )
        share = (step - span.first + 1) / (span.last - span.first + 1)
        return left + width * min(max(share, 0.0), 1.0)

    def __iter__(self) -> Iterator[tuple[Span, float, float]]:
        """(stage, its left end, its width)."""
        return iter(self._places)

    def parts(self, points: Points) -> Iterator[tuple[Points, int]]:
        """The points stage by stage, as no curve crosses a border, where all may change; and how
        many of them have room."""
        found: list[list[tuple[int, float]]] = [[] for _ in self._places]
        for point in points:
            ends = enumerate(span.last for span, _, _ in self._places)
            found[next((i for i, last in ends if point[0] <= last), -1)].append(point)
        for part, (_, _, width) in zip(found, self._places, strict=True):
            if part:
                yield part, max(round(MOST_POINTS * width / WIDTH), 2)


class _Values:
    """Where a value stands from top to bottom, and the values to write on the axis."""

    def __init__(self, chart: Chart, across: _Steps) -> None:
        low, high = _limits(chart.series, across)
        step = _nice((high - low) / 4)
        self.ticks = [
            number * step for number in range(math.floor(low / step), math.ceil(high / step) + 1)
        ]
        self._low, self._high = self.ticks[0], self.ticks[-1]

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        # far outside of the frame is far enough: no number that SVG cannot read
        return HEIGHT - BOTTOM - min(max(share, -9.0), 9.0) * (HEIGHT - TOP - BOTTOM)


def _limits(series: Sequence[Series], across: _Steps) -> tuple[float, float]:
    """The least and the greatest value to show: all that is exact; of noise its middle, without
    the first steps of a loss where they are far above all others."""
    ends: list[float] = []
    for each in series:
        ends += _usual(each.points, across) if each.noisy else _extremes(each)
    low, high = min(ends), max(ends)
    if high - low < 1e-9 * max(abs(high), 1e-9):
        room = abs(high) / 10 or 1.0
        low, high = low - room, high + room
    return low, high


def _extremes(series: Series) -> list[float]:
    errors = dict(series.errors)
    reach = [(value, errors.get(step, 0.0)) for step, value in series.points]
    return [min(v - error for v, error in reach), max(v + error for v, error in reach)]


def _usual(points: Points, across: _Steps) -> list[float]:
    parts = across.parts(points)
    values = sorted(v for part, room in parts for _, v in _smoothed(_thinned(part, room)))
    low, high, usual = values[0], values[-1], values[int(0.95 * (len(values) - 1))]
    if len(values) > 20 and high - low > 2.5 * (usual - low) > 0:
        high = usual + 0.25 * (usual - low)
    return [low, high]


def _nice(step: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is not under `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= step * 0.999)


def _stages(spans: Sequence[Span], across: _Steps) -> Iterator[str]:
    """A band and a name a stage, and the step at which it ends."""
    taken = LEFT + 28.0
    for number, (span, left, width) in enumerate(across):
        middle = left + width / 2
        if number % 2:
            yield (
                f'<rect class="band" x="{left:.1f}" y="{TOP - 18}" width="{width:.1f}" '
                f'height="{HEIGHT - TOP - BOTTOM + 18}"/>'
            )
        if number:
            yield f'<path class="border" d="M{left:.1f} {TOP - 18}V{HEIGHT - BOTTOM}"/>'
        if len(spans) > 1:
            room = int(width / 6)  # letters
            name = span.name if len(span.name) <= room else f"{span.name[: room - 1]}…"
            yield f'<text class="stage" x="{middle:.1f}" y="{TOP - 8}">{escape(name)}</text>'
        for step in _round_steps(span, width):
            text = f"{step:,}"
            if across(step) - len(text) * 7 > taken:
                yield f'<text class="step" x="{across(step):.1f}" y="{HEIGHT - 8}">{text}</text>'
                taken = across(step) + 6
    yield f'<text class="step start" x="{LEFT}" y="{HEIGHT - 8}">step</text>'


def _round_steps(span: Span, width: float) -> Iterator[int]:
    """Round numbers within a stage, as many as have room, and its last step."""
    scale = width / (span.last - span.first + 1)  # units a step
    apart = max(_nice(TICK / scale), 1.0)
    step = math.floor(span.first / apart) * apart + apart
    while (span.last - step) * scale > TICK / 2:
        yield round(step)
        step += apart
    yield span.last


def _grid(chart: Chart, up: _Values) -> Iterator[str]:
    for value in up.ticks:
        y, text = up(value), escape(chart.write(value))
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text class="value" x="{LEFT - 7}" y="{y + 4:.1f}">{text}</text>'


def _curve(series: Series, across: _Steps, up: _Values) -> Iterator[str]:
    for part, room in across.parts(series.points):
        thin = _thinned(part, room)
        if series.noisy and len(thin) >= SMOOTH:
            yield _line(thin, across, up, "raw")
        yield _line(_smoothed(thin) if series.noisy else thin, across, up, "line")
        if series.dots or len(part) == 1:
            yield from _dots(part, dict(series.errors), across, up, series.name)


def _line(points: Points, across: _Steps, up: _Values, kind: str) -> str:
    path = "L".join(f"{across(step):.1f} {up(value):.1f}" for step, value in points)
    return f'<path class="{kind}" d="M{path}"/>'


def _dots(
    points: Points, errors: dict[int, float], across: _Steps, up: _Values, name: str
) -> Iterator[str]:
    for step, value in points:
        x, y, error = across(step), up(value), errors.get(step)
        said = f"{name}, step {step:,}: {value:.4f}"
        if error is not None:
            said += f" ± {error:.4f}"
            low, high = up(value - error), up(value + error)
            yield f'<path class="error" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
        title = f"<title>{escape(said)}</title>"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>'


def _smoothed(points: Points) -> Points:
    """The means of the medians of each point's neighbourhood: one odd step moves neither much."""
    if len(points) < SMOOTH:
        return points
    reach = len(points) // SMOOTH // 2 + 1
    values = [value for _, value in points]
    for middle in (median, fmean):
        values = [middle(values[max(i - reach, 0) : i + reach + 1]) for i in range(len(values))]
    return [(step, value) for (step, _), value in zip(points, values, strict=True)]


def _thinned(points: Points, most: int) -> Points:
    """At most so many points; each the mean of its neighbours, at the last one's step."""
    if len(points) <= most:
        return points
    cuts = [round(i * len(points) / most) for i in range(most + 1)]
    parts = [points[start:stop] for start, stop in zip(cuts, cuts[1:], strict=False)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
