"""`python -m benchmarks` and `lmkit bench`: names, help, errors, all."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import benchmarks.__main__ as benchmarks_main
import lmkit
from benchmarks import BENCHMARKS
from lmkit.cli import main
from lmkit.errors import ConfigError

HOW = [main, lambda words: benchmarks_main.main(words[1:])]


@pytest.mark.parametrize("run", HOW)
def test_help(run: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(run)
    assert run(["bench"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in [*BENCHMARKS, "all"])
    assert run(["bench", "train", "--help"]) == 0
    assert "--shapes" in capsys.readouterr().out


@pytest.mark.parametrize("run", HOW)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "there is no benchmark 'trian'; did you mean 'train'?"),
        (["dance"], "there is no benchmark 'dance'; there are train, loss, "),
        (["train", "--smok"], "unrecognized arguments: --smok; see "),
        (["train", "--nanogpt", "/nowhere"], "--nanogpt: there is no folder /nowhere"),
        (["train", "--shapes", "4x25"], "--shapes: there is no shape '4x25'; did you mean '4x256'"),
        (["loss", "--contestants", "llama"], "nobody is called 'llama'; there are lmkit gpt"),
    ],
)
def test_a_wrong_word(
    run: object, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(run)
    assert run(["bench", *words]) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_gpu_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmarks_main.main(["train", "--device", "cuda"]) == 2
    said = "error: --device: this torch finds no GPU; cpu is the default\n"
    assert capsys.readouterr().err == said


def test_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fail_at_first(arguments: argparse.Namespace) -> int:
        seen.append((arguments.name, arguments.json, arguments.smoke))
        if arguments.name == "first":
            raise ConfigError("it is broken")
        return 0

    for name in ("first", "second"):
        module = ModuleType(f"benchmarks.{name}")
        module.add_arguments = lambda parser: None  # type: ignore[attr-defined]
        module.run = fail_at_first  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module)
    monkeypatch.setattr(benchmarks_main, "BENCHMARKS", {"first": "a", "second": "b"})
    assert benchmarks_main.main(["all", "--smoke", "--json", str(tmp_path)]) == 2
    assert seen == [(n, str(tmp_path / f"{n}.json"), True) for n in ("first", "second")]


def test_an_installed_package_has_no_benchmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lmkit, "__file__", str(tmp_path / "lmkit" / "__init__.py"))
    assert main(["bench", "train"]) == 2
    assert "come with lmkit's source" in capsys.readouterr().err
