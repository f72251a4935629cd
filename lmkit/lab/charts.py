"""charts: series of numbers over steps, drawn as SVG; knows no run and takes its colours from CSS.

Plain SVG: it needs no plotting package, follows the page from light to dark, and stays sharp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[int, float]]

WIDTH, HEIGHT = 520, 250  # units of the drawing; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 26, 26  # margins
LEAST_SHARE = 0.15  # of the width for a stage: one of 50 steps after 10,000 is to be seen too
MOST_POINTS = 300  # a stage; of more, neighbours are averaged
SMOOTH = 40  # steps from which on a curve is smoothed, over 1/40 of them
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


def draw(chart: Chart) -> str:
    """The chart as an `<svg>` element; every text in it is escaped."""
    across = _Steps(chart.spans)
    up = _Values(chart)
    parts = [
        *_stages(chart.spans, across),
        *_grid(chart, up),
        f'<g clip-path="inset({TOP - 4}px {RIGHT - 6}px {BOTTOM - 4}px {LEFT - 6}px)">',
        f'<rect class="frame" x="0" y="0" width="{WIDTH}" height="{HEIGHT}"/>',
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


class _Values:
    """Where a value stands from top to bottom, and the values to write on the axis."""

    def __init__(self, chart: Chart) -> None:
        values = [value for series in chart.series for value in _heights(series, chart.spans)]
        low, high = _limits(values)
        step = _nice((high - low) / 4)
        self.ticks = [
            number * step for number in range(math.floor(low / step), math.ceil(high / step) + 1)
        ]
        self._low, self._high = self.ticks[0], self.ticks[-1]

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        # far outside of the frame is far enough: no number that SVG cannot read
        return HEIGHT - BOTTOM - min(max(share, -9.0), 9.0) * (HEIGHT - TOP - BOTTOM)


def _heights(series: Series, spans: Sequence[Span]) -> list[float]:
    """The values that decide how high the axis reaches; of noise its middle."""
    if series.noisy:
        return [value for part in _by_span(series.points, spans) for _, value in _smoothed(part)]
    errors = dict(series.errors)
    reach = [(value, errors.get(step, 0.0)) for step, value in series.points]
    return [value + sign * error for value, error in reach for sign in ((1, -1) if error else (1,))]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest value; the first steps of a loss, far above all others, apart."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    usual = ordered[int(0.95 * (len(ordered) - 1))]
    if len(ordered) > 20 and high - low > 2.5 * (usual - low) > 0:
        high = usual + 0.25 * (usual - low)
    if high - low < 1e-9 * max(abs(high), 1e-9):
        room = abs(high) / 10 or 1.0
        low, high = low - room, high + room
    return low, high


def _nice(step: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is not under `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= step * 0.999)


def _stages(spans: Sequence[Span], across: _Steps) -> Iterator[str]:
    """A band and a name a stage, and the step at which it ends."""
    taken = float(LEFT) - 20
    for number, (span, left, width) in enumerate(across):
        middle, right = left + width / 2, left + width
        if number % 2:
            yield (
                f'<rect class="band" x="{left:.1f}" y="{TOP - 18}" width="{width:.1f}" '
                f'height="{HEIGHT - TOP - BOTTOM + 18}"/>'
            )
        if number:
            yield f'<path class="border" d="M{left:.1f} {TOP - 18}V{HEIGHT - BOTTOM}"/>'
        if len(spans) > 1:
            name = span.name if len(span.name) * 7 < width else span.name[: int(width / 7) - 1] + "…"
            yield f'<text class="stage" x="{middle:.1f}" y="{TOP - 8}">{escape(name)}</text>'
        text = f"{span.last:,}"
        if right - len(text) * 7 > taken:
            yield f'<text class="step" x="{right:.1f}" y="{HEIGHT - 8}">{text}</text>'
            taken = right
    yield f'<text class="step start" x="{LEFT}" y="{HEIGHT - 8}">step</text>'


def _grid(chart: Chart, up: _Values) -> Iterator[str]:
    for value in up.ticks:
        y = up(value)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text class="value" x="{LEFT - 7}" y="{y + 4:.1f}">{escape(chart.write(value))}</text>'


def _curve(series: Series, across: _Steps, up: _Values) -> Iterator[str]:
    spans = [span for span, _, _ in across]
    for part in _by_span(series.points, spans):
        thin = _thinned(part, MOST_POINTS)
        if series.noisy and len(part) >= SMOOTH:
            yield _line(thin, across, up, "raw")
            thin = _thinned(_smoothed(part), MOST_POINTS)
        yield _line(thin, across, up, "line")
        if series.dots or len(part) == 1:
            yield from _dots(part, dict(series.errors), across, up, series.name)


def _line(points: Points, across: _Steps, up: _Values, kind: str) -> str:
    path = "L".join(f"{across(step):.1f} {up(value):.1f}" for step, value in points)
    return f'<path class="{kind}" d="M{path}"/>'


def _dots(
    points: Points, errors: dict[int, float], across: _Steps, up: _Values, name: str
) -> Iterator[str]:
    for step, value in points:
        x, error = across(step), errors.get(step)
        said = f"{name}, step {step:,}: {value:.4f}"
        if error is not None:
            said += f" ± {error:.4f}"
            yield f'<path class="error" d="M{x:.1f} {up(value - error):.1f}V{up(value + error):.1f}"/>'
        yield (
            f'<circle cx="{x:.1f}" cy="{up(value):.1f}" r="3"><title>{escape(said)}</title></circle>'
        )


def _by_span(points: Points, spans: Sequence[Span]) -> list[Points]:
    """The points stage by stage: no curve crosses a border, where all may change."""
    found: dict[int, list[tuple[int, float]]] = {}
    for step, value in points:
        index = next((i for i, span in enumerate(spans) if step <= span.last), len(spans) - 1)
        found.setdefault(index, []).append((step, value))
    return list(found.values())


def _smoothed(points: Points) -> Points:
    """A mean that forgets, over 1/40 of the points."""
    keep = 1 - 1 / max(len(points) / SMOOTH, 1)
    mean = weight = 0.0
    smooth = []
    for step, value in points:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + 1 - keep
        smooth.append((step, mean / weight))
    return smooth


def _thinned(points: Points, most: int) -> Points:
    """At most so many points; each the mean of its neighbours, at the last one's step."""
    if len(points) <= most:
        return points
    cuts = [round(i * len(points) / most) for i in range(most + 1)]
    parts = [points[start:stop] for start, stop in zip(cuts, cuts[1:], strict=False)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
