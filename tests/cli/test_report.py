"""`lmkit report`: the file it writes, of a run that was really made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_a_run_as_a_page_and_as_markdown(project: Any, tmp_path: Path) -> None:
    project.rewrite("evaluate: {tokens: 64}", 'evaluate: {tokens: 64, samples: ["<i>1"]}')
    assert project.train().code == 0
    done = project.lmkit("report", project.run, "--dollars-per-hour", "3")
    assert (done.code, done.out) == (0, f"{project.run / 'report.html'}\n"), done.err
    page = (project.run / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<title>tiny</title>" in page
    assert "&lt;i&gt;1" in page, "the prompt of the samples"
    assert "<i>1" not in page
    assert "path: text.txt" in page, "the experiment"
    assert "$0.000" in page
    done = project.lmkit("report", project.run, "--markdown", "--out", tmp_path / "r.md")
    assert done.code == 0
    assert (tmp_path / "r.md").read_text().startswith("# tiny\n")
    assert project.lmkit("report", project.run, "--markdown", "--out", "-").out.startswith(
        "# tiny\n"
    )


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["gone"], "gone: there is no such folder; give a run's folder", 2),
        (["gone", "--dollars-per-hour", "nan"], "--dollars-per-hour: nan is no price", 2),
        (["gone", "--dollars-per-hour", "-1"], "--dollars-per-hour: -1.0 is no price", 2),
    ],
)
def test_mistakes(words: list[str], said: str, code: int, project: Any) -> None:
    done = project.lmkit("report", *words)
    assert done.code == code
    assert said in done.error


def test_a_place_that_cannot_be_written(project: Any, tmp_path: Path) -> None:
    assert project.train("stages.0.steps=1").code == 0
    done = project.lmkit("report", project.run, "--out", tmp_path / "no" / "r.html")
    assert done.code == 74
    assert "r.html" in done.error
