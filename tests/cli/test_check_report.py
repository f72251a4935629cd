"""The drawings of `lmkit check`: a curve and a row, in plain characters."""

from __future__ import annotations

from lmkit.cli.check_report import LINE, SHOWN, draw_row, plot
from lmkit.lab.stage_preview import Passage


def test_plot() -> None:
    assert plot([0.0, 0.25, 0.5, 0.75, 1.0, 0.0]) == [
        "    1 |    *",
        "      |   *",
        "      |  *",
        "      | *",
        "    0 |*    *",
    ]
    assert plot([0.02])[0] == " 0.02 |*"
    assert plot([0.0, 0.0])[-1] == "    0 |**", "nothing is learned, and nothing breaks"


def test_what_is_not_trained_is_marked() -> None:
    row = [Passage("ask:\n", False), Passage("say\t", True), Passage("x", False)]
    assert draw_row(row, colour=False) == [r"ask:\nsay\tx", "------     -"]
    assert draw_row([Passage("all", True)], colour=False) == ["all"]
    assert draw_row(row[1:], colour=True) == ["say\\t\x1b[2mx\x1b[0m"]


def test_a_long_row_is_cut() -> None:
    lines = draw_row([Passage("a" * 1000, True)], colour=False)
    assert lines[:-1] == ["a" * LINE] * (SHOWN // LINE)
    assert lines[-1] == "... and 760 characters"
