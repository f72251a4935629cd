"""The benchmark of batches, tiny."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main


@pytest.mark.usefixtures("in_turn")
def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "data.json"
    assert main(["data", "--smoke", "--json", str(file)]) == 0
    assert "plain indexing" in capsys.readouterr().out
    rows = json.loads(file.read_text())["rows"]
    names = ["plain indexing", "lmkit, one batch ahead", "lmkit, when asked"]
    assert [row["contestant"] for row in rows] == names
    for row in rows:
        assert row["tokens/s"] == pytest.approx(row["batches/s"] * 32 * 4)
    assert rows[0]["x plain"] == 1
