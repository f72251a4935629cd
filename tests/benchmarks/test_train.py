"""The benchmark of training, tiny: real processes, no timing asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.shapes import SHAPES


def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.json"
    words = ["train", "--smoke", "--json", str(file)]
    assert main(words) == 0, capsys.readouterr().err
    found = json.loads(file.read_text())
    (race,) = found["rows"]
    assert (race["setting"], race["contestant"]) == ("tiny", "gpt muon eager")
    work = race["tokens/s"] * SHAPES["tiny"].flops_per_token
    assert race["MFU"] == pytest.approx(work / found["contests"]["tiny"]["machine"]["bf16"][0])
    assert {"bf16", "fp32", "read"} == found["rates"].keys()
    assert "gpt muon eager" in capsys.readouterr().out
