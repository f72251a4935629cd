"""Tables for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest

from benchmarks.contest import Measure, Result
from benchmarks.table import Report, render

ROWS = [
    {"who": "lmkit", "tokens/s": 12345.6, "x": 1.25},
    {"who": "a peer", "tokens/s": 87.654, "x": math.nan},
]


def test_text() -> None:
    assert render(ROWS) == (
        "who     tokens/s      x\n"
        "-----------------------\n"
        "lmkit     12,346  1.250\n"
        "a peer     87.65      -"
    )


def test_markdown() -> None:
    assert render(ROWS, markdown=True).splitlines()[:3] == [
        "| who    | tokens/s |     x |",
        "| ------ | -------: | ----: |",
        "| lmkit  |   12,346 | 1.250 |",
    ]


def test_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "found.json"
    arguments = argparse.Namespace(json=str(file), markdown=False, device="cpu")
    report = Report("speed", arguments, {"rounds": 1})
    result = Result("tokens", {"lmkit": [Measure(6.0, 2.0)], "peer": []}, {"bf16": [2e9, 4e9]})
    report.note("small", result)
    result.failed["peer"] = "it is away"
    report.note("small", result)  # once more, as after each round
    for row in ROWS:
        report.add(**row)
    report.add(other="table")
    assert report.finish() == 1  # somebody failed
    said = capsys.readouterr().out
    assert "bf16 3 GFLOP/s" in said
    assert render(ROWS) in said
    assert "other\n-----\ntable" in said
    assert "failed: small: peer: it is away" in said

    found = json.loads(file.read_text())
    assert found["rows"] == [*({**ROWS[0]}, {**ROWS[1], "x": None}), {"other": "table"}]
    assert found["rates"] == {"bf16": 3e9}
    assert found["settings"] == {"rounds": 1}
    assert found["contests"]["small"]["rates"] == {"lmkit": [3.0], "peer": []}
    assert {"cpu", "cores", "threads", "torch", "python", "device", "commit"} <= {*found["machine"]}
    assert [each.name for each in file.parent.iterdir()] == [file.name]
