"""A profile watches the steps that it should, tells where they went, and changes nothing."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
import torch

from lmkit.train.profile import BETWEEN, ROWS, TABLE, TRACE, Operator, Profile, table

CPU = torch.device("cpu")


def watched(folder: Path, steps: int, made: int) -> list[str]:
    """What is said of `made` steps of two products each, with another one between them."""
    said: list[str] = []
    profile = Profile(folder, steps, CPU, said.append)
    x = torch.ones(64, 64)
    for step in range(1, made + 1):
        torch.mm(torch.mm(x, x), x)
        profile.after_step(last=step == made)
    profile.close()
    return said


def products(folder: Path) -> int:
    trace = json.loads(gzip.decompress((folder / TRACE).read_bytes()))
    return sum(event.get("name") == "aten::mm" for event in trace["traceEvents"])


def rows(text: str) -> dict[str, list[str]]:
    lines = [line.rsplit(maxsplit=3) for line in text.splitlines()]
    return {line[0].strip(): line[1:] for line in lines if line[-1].endswith("%")}


@pytest.mark.parametrize(("made", "seen"), [(9, 2), (5, 2), (4, 1)])
def test_the_steps_after_the_first_three(tmp_path: Path, made: int, seen: int) -> None:
    (said,) = watched(tmp_path, 2, made)
    assert said.startswith(f"profile of {seen} steps, ")
    assert products(tmp_path) == 2 * seen
    assert rows(said)["aten::mm"][0] == "2"  # a step
    assert str(tmp_path / TRACE) in said
    assert said.startswith((tmp_path / TABLE).read_text().rstrip())


def test_too_few_steps_are_told(tmp_path: Path) -> None:
    assert watched(tmp_path, 2, 3) == ["nothing was profiled: the first 3 steps are for warming up"]
    assert not (tmp_path / TRACE).exists()


def test_a_run_that_stops_leaves_no_profiler_behind(tmp_path: Path) -> None:
    profile = Profile(tmp_path, 2, CPU, print)
    for _ in range(4):
        profile.after_step()
    profile.close()
    assert not torch.autograd._profiler_enabled()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_costs_the_files_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "profile").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        (said,) = watched(tmp_path / "profile", 1, 5)
    assert "aten::mm" in said
    assert "the profile was not written" in caplog.text


def test_shares_make_a_step() -> None:
    operators = [Operator(f"op{i}", 2.0, 0.001 * (30 - i)) for i in range(30)]
    text = table(operators, 4, 1.0, CPU)
    found = rows(text)
    assert text.startswith("profile of 4 steps, 1,000.0 ms each")
    assert found["op0"] == ["2", "30.000", "3.0%"]
    assert f"op{ROWS - 1}" in found
    assert f"op{ROWS}" not in found
    assert found["(10 others)"] == ["20", "55.000", "5.5%"]
    line = next(line for line in text.splitlines() if BETWEEN in line)
    assert line.split()[-2:] == ["535.000", "53.5%"]
