"""The benchmark of start-up, tiny, and the commands that it waits for."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.shapes import SHAPES
from benchmarks.startup import PROMPT, Command, _contestants
from lmkit.cli import main as lmkit


@pytest.mark.usefixtures("in_turn")
def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "startup.json"
    words = ["--contestants", "python,help", "--json", str(file)]
    assert main(["startup", "--smoke", *words]) == 0
    assert "lmkit --help" in capsys.readouterr().out
    rows = json.loads(file.read_text())["rows"]
    assert [row["command"] for row in rows] == ["python", "lmkit --help"]
    assert rows[0]["seconds"] < rows[1]["seconds"]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_is_left_when_it_has_got_there() -> None:
    forever = "print('a: b', flush=True); import time; time.sleep(100)"
    assert Command(python(forever), until="a:").round(0).seconds < 50


@pytest.mark.parametrize(
    ("code", "until"), [("print('a:', end='')", "a:"), ("raise SystemExit(3)", None)]
)
def test_a_command_that_fails_is_no_fast_one(code: str, until: str | None) -> None:
    with pytest.raises(RuntimeError):
        Command(python(code), until=until)


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The words behind `python -m lmkit`, by contestant."""
    arguments = Namespace(smoke=True, nanogpt=None)
    monkeypatch.setenv("LMKIT_CACHE", str(folder / "cache"))
    found = _contestants(SHAPES["tiny"], folder, arguments)
    return {each.name: each.arguments["words"][3:] for each in found}


def test_training_ends_with_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []

    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        ends.append(code)
        raise Ended

    words = commands(tmp_path, monkeypatch)["lmkit train, first step"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "_exit", end)
        with pytest.raises(Ended):
            lmkit(words)
    assert ends == [0]
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1


def test_generation_has_something_behind_the_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = commands(tmp_path, monkeypatch)["lmkit generate, first token"]
    assert lmkit([*words, "--max-new-tokens", "4"]) == 0
    _, prompt, written = capfd.readouterr().out.partition(PROMPT)
    assert prompt
    assert written.strip()
