"""Curves as SVG: within the frame, stage by stage, whatever the numbers are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkit.lab.charts import HEIGHT, LEFT, RIGHT, WIDTH, Chart, Series, Span, draw, sparkline


def chart(*series: Series, spans: tuple[Span, ...] = (Span("a", 1, 100),), **more: object) -> Chart:
    return Chart("a chart", series, spans, **more)  # type: ignore[arg-type]


def parsed(drawn: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawn)


def xs(drawn: str, kind: str) -> list[list[float]]:
    """The places from left to right of each path of a kind."""
    paths = re.findall(rf'<path class="{kind}" d="M([^"]+)"', drawn)
    return [[float(point.split()[0]) for point in path.split("L")] for path in paths]


def texts(drawn: str, kind: str) -> list[str]:
    return [e.text or "" for e in parsed(drawn).iter("text") if kind in e.get("class", "").split()]


finite = st.floats(-1e30, 1e30, allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 5000), finite), min_size=1, max_size=60), st.booleans())
def test_any_numbers_make_a_drawing(points: list[tuple[int, float]], noisy: bool) -> None:
    points.sort()
    spans = (Span("a", 1, 1000), Span("b", 1001, 1003), Span("c", 1004, 4000))
    drawn = draw(chart(Series("s", points, noisy=noisy, dots=not noisy), spans=spans))
    parsed(drawn)
    assert "nan" not in drawn
    assert "inf" not in drawn
    for path in xs(drawn, "line"):
        assert path == sorted(path), "from left to right"
        assert LEFT <= path[0] <= path[-1] <= WIDTH - RIGHT


def test_no_curve_crosses_the_border_of_a_stage() -> None:
    spans = (Span("long", 1, 10_000), Span("short", 10_001, 10_050))
    points = [(step, 1.0) for step in range(1, 10_051)]
    drawn = draw(chart(Series("s", points), spans=spans))
    long, short = xs(drawn, "line")
    assert long[-1] <= short[0]
    assert short[-1] - short[0] > 40, "a short stage is wide enough to be seen"
    assert len(long) + len(short) < 400, "a long run makes no long file"
    assert texts(drawn, "stage") == ["long", "short"]
    assert texts(drawn, "step")[-1] == "step"
    assert "10,000" in texts(drawn, "step")
    assert drawn.count('class="border"') == 1


def test_one_step_and_one_value() -> None:
    drawn = draw(chart(Series("s", [(1, 2.0)]), spans=(Span("a", 1, 1),)))
    assert drawn.count("<circle") == 1, "a point alone is a dot, for a line of one point is none"
    low, *_, high = (float(value) for value in texts(drawn, "value"))
    assert low < 2.0 < high


def test_the_first_steps_of_a_loss_do_not_press_the_rest_flat() -> None:
    points = [(step, 2.0 + 100.0 / step**2) for step in range(1, 300)]
    drawn = draw(chart(Series("s", points, noisy=True), spans=(Span("a", 1, 300),)))
    assert max(float(value) for value in texts(drawn, "value")) < 10


def test_what_is_exact_is_always_within_the_frame() -> None:
    noise = [(step, 1.0 + step % 2) for step in range(1, 101)]
    held_out = Series("held out", [(100, 50.0)], dots=True)
    drawn = draw(chart(Series("s", noise, noisy=True), held_out))
    assert float(texts(drawn, "value")[-1]) >= 50


def test_errors_are_bars_and_points_tell_their_values() -> None:
    series = Series("x<y", [(10, 0.5), (20, 0.6)], dots=True, errors=((10, 0.1), (20, 0.1)))
    drawn = draw(chart(series))
    assert drawn.count('class="error"') == 2
    titles = [title.text for title in parsed(drawn).iter("title")]
    assert titles == ["x<y, step 10: 0.5000 ± 0.1000", "x<y, step 20: 0.6000 ± 0.1000"]
    low, *_, high = (float(value) for value in texts(drawn, "value"))
    assert low <= 0.4
    assert high >= 0.7


def test_noise_is_drawn_faint_behind_its_middle() -> None:
    points = [(step, 1.0 if step != 50 else 1000.0) for step in range(1, 101)]
    drawn = draw(chart(Series("s", points, noisy=True)))
    (raw,), (smooth,) = (
        re.findall(rf'<path class="{kind}" d="([^"]+)"', drawn) for kind in ("raw", "line")
    )
    assert raw != smooth
    heights = [float(point.split()[1]) for point in smooth[1:].split("L")]
    assert max(heights) == min(heights), "one odd step does not move the middle"
    assert 0 < heights[0] < HEIGHT


def test_several_charts_on_a_page_have_ids_of_their_own() -> None:
    one = chart(Series("s", [(1, 1.0)]))
    assert 'id="frame1"' in draw(one, "1")
    assert "url(#frame1)" in draw(one, "1")
    assert draw(one, "1") != draw(one, "2")


@pytest.mark.parametrize(
    ("values", "shown"),
    [([], ""), ([1.0], "▁"), ([3.0, 2.0, 1.0], "█▅▁"), ([2.0, 2.0], "▁▁")],
)
def test_sparkline(values: list[float], shown: str) -> None:
    assert sparkline(list(enumerate(values))) == shown


def test_a_long_sparkline_is_thinned() -> None:
    assert sparkline([(i, float(i)) for i in range(1000)], width=8) == "▁▂▃▄▅▆▇█"
