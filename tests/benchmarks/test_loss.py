"""The benchmark of the loss, tiny, and how one curve is held against another."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.contest import Measure, Result
from benchmarks.loss import Descent, _rows


def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "loss.json"
    words = ["--variant", "small", "model.depth=1", "--contestants", "small"]
    assert main(["loss", "--smoke", "--json", str(file), *words]) == 0, capsys.readouterr().err
    found = json.loads(file.read_text())
    (row,) = found["rows"]
    assert row["contestant"] == "lmkit small"
    rounds = found["contests"]["tiny"]["more"]["lmkit small"]
    bits = [each["bits_per_byte"] for each in rounds]
    assert [row["bpb at 0.000512M"], row["bpb at 0.00102M"]] == bits
    assert bits[1] < bits[0] < 12
    assert row["training s"] > 0


def measures(*found: tuple[float, float, float]) -> list[Measure]:
    more = [{"bits_per_byte": bits, "parameters": 5.0} for _, _, bits in found]
    return [
        Measure(tokens, seconds, each)
        for (tokens, seconds, _), each in zip(found, more, strict=True)
    ]


def test_a_descent() -> None:
    descent = Descent.of(measures((100, 2, 4.0), (100, 3, 3.0), (50, 1, 2.0)))
    assert descent.tokens == (100, 200, 250)
    assert descent.seconds == (2, 5, 6)
    assert (descent.at(200), math.isnan(descent.at(150))) == (3.0, True)
    assert descent.reaches(3.5) == (150, 3.5)
    assert descent.reaches(2.0) == (250, 6)
    assert descent.reaches(5.0) == (100, 2)  # at the first stop at the latest
    assert all(map(math.isnan, descent.reaches(1.9)))


def test_how_soon_a_peer_is_reached() -> None:
    result = Result(
        "tokens",
        {
            "lmkit gpt": measures((100, 2, 4.0), (100, 2, 2.0)),
            "nanochat bf16": measures((100, 3, 4.5), (100, 5, 3.0)),
            "nanogpt bf16": [],  # it has not had its turn yet
        },
    )
    *rows, reaching = _rows(result, [200])
    assert [row["bpb at 0.0002M"] for row in rows[:2]] == [2.0, 3.0]
    assert math.isnan(rows[2]["bpb at 0.0002M"])
    assert reaching == {
        "contestant": "lmkit gpt",
        "reaches": "3.000 of nanochat bf16",
        "tokens": 150,
        "x its tokens": 0.75,
        "x its seconds": pytest.approx(3 / 8),
    }
