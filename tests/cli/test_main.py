"""The door of the command line: light, with one line an error, and quiet when nobody listens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import lmkit as package
from lmkit.cli import COMMANDS

HEAVY = {"torch", "numpy", "tiktoken", "safetensors", "yaml", "lmkit.config"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lmkit.cli import main; main(['--help']); "
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & HEAVY
    assert {name for name in loaded if name.startswith("lmkit.")} == {"lmkit.cli", "lmkit.errors"}
    for command, summary in COMMANDS.items():
        assert command in done.stdout
        assert summary.split()[0] in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, lmkit: Callable[..., Any]) -> None:
    done = lmkit(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: lmkit {command}")


def test_nothing_to_do(lmkit: Callable[..., Any]) -> None:
    assert lmkit().out == lmkit("--help").out


def test_version(lmkit: Callable[..., Any]) -> None:
    assert lmkit("--version").out == f"lmkit {package.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "lmkit: there is no command 'trian'; did you mean 'train'?"),
        (["dance"], "lmkit: there is no command 'dance'; there are train, check, "),
        (["--versoin"], "lmkit: there is no '--versoin'; did you mean '--version'?"),
        (["check", "x.yaml", "--jsn"], "lmkit check: there is no '--jsn'; did you mean '--json'?"),
        (["generate", "x", "--temp", "1"], "lmkit generate: there is no '--temp'; "),
        (["generate", "x", "y"], "lmkit generate: there is no 'y'; "),
        (["train"], "lmkit train: the following arguments are required: experiment; "),
        (["generate", "x", "--seed", "s"], "argument --seed: invalid int value: 's'; "),
    ],
)
def test_a_wrong_word(words: list[str], said: str, lmkit: Callable[..., Any]) -> None:
    done = lmkit(*words)
    assert done.code == 2
    assert said in done.error
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_overrides_come_anywhere(project: Any) -> None:
    done = project.lmkit(
        "train", "--set", "seed=3", project.yaml, "stages.0.steps=1", "--set",
        "stages.0.batch_size=3", "--allow-change", "nothing", "name=renamed",
    )  # fmt: skip
    assert done.code == 0, done.err
    text = (project.run / "experiment.json").read_text()
    for part in ('"seed": 3', '"steps": 1', '"batch_size": 3', '"name": "renamed"'):
        assert part in text


def test_nobody_reads() -> None:
    """The reader is gone before the first line, as that of `lmkit ... | head` may be."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "lmkit", "describe", "textwrap.TextWrapper"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_error_of_several_lines_is_one(
    lmkit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmkit.errors import DistributedError

    def fail(*_: object) -> None:
        raise DistributedError("one\n  two", hint="three")

    monkeypatch.setattr("lmkit.cli.generate.run", fail)
    done = lmkit("generate", "x")
    assert (done.code, done.err) == (5, "error: one two; three\n")


def test_ctrl_c(lmkit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lmkit.cli.generate.run", interrupt)
    assert lmkit("generate", "x").code == 130


@pytest.mark.parametrize(("size", "ends"), [(1, ["the interpreter"]), (2, [])])
def test_one_of_several_ranks_leaves_out_the_end_of_the_interpreter(
    size: int, ends: list[str]
) -> None:
    code = (
        "import atexit, os, sys\n"
        "class Last:\n"
        "    def __del__(self, write=os.write): write(1, b'the interpreter\\n')\n"
        "last = Last()\n"
        "from lmkit.__main__ import run\n"
        "atexit.register(print, 'what was registered', flush=True)\n"
        "sys.argv[1:] = ['trian']\n"
        "run()\n"
    )
    environment = {**os.environ, "WORLD_SIZE": str(size)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.splitlines() == ["what was registered", *ends]
