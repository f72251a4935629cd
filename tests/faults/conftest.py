"""How often each fault is tried: a little in the ordinary suite, at length in `make nightly`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Project, command_line, write_project


def count(ordinary: int, nightly: int) -> int:
    """How many trials to make: `nightly` where the environment sets LMKIT_NIGHTLY, else `ordinary`.

    `from tests.faults.conftest import count`, for parameters; no fixture would be there in time.
    """
    return nightly if os.environ.get("LMKIT_NIGHTLY") else ordinary


@contextmanager
def _in_memory() -> Iterator[Path]:
    """A folder in memory where there is such a place: a real disk takes 3 ms a sync, of 3,000."""
    shared_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared_memory) as folder:
        yield Path(folder)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, for one test."""
    with _in_memory() as folder:
        yield folder


Ask = Callable[[str, int], dict[str, Any]]


@contextmanager
def _program(name: str, factory: pytest.TempPathFactory, folder: Path) -> Iterator[Ask]:
    """Ask a program of this folder, which lives as long as the tests of it: torch is imported once,
    and one run is the measure of all."""
    command = [sys.executable, Path(__file__).with_name(name), folder]
    with (
        (factory.mktemp("said") / "said").open("w+") as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None

        def put(what: str, number: int) -> dict[str, Any]:
            print(what, number, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            said.seek(0)
            assert answer, said.read()
            print(f"{what}: {answer}")
            return json.loads(answer)

        yield put
        process.kill()  # it waits for the next question


@pytest.fixture(scope="package")
def package_memory() -> Iterator[Path]:
    """A folder in memory, for all tests of this folder."""
    with _in_memory() as folder:
        yield folder


@pytest.fixture(scope="package")
def ask(
    tmp_path_factory: pytest.TempPathFactory,
    package_memory: Path,
    make_experiment: Callable[[Path], Path],
) -> Iterator[Ask]:
    """Ask `runs.py`: runs that are killed, and whose checkpoints are damaged."""
    folder = package_memory / "runs"
    make_experiment(folder)
    with _program("runs.py", tmp_path_factory, folder) as put:
        yield put


@pytest.fixture(scope="package")
def guards(tmp_path_factory: pytest.TempPathFactory, package_memory: Path) -> Iterator[Ask]:
    """Ask `guards.py`: runs that are asked to stop, that meet a NaN, that run out of memory."""
    folder = package_memory / "guards"
    folder.mkdir()
    with _program("guards.py", tmp_path_factory, folder) as put:
        yield put


@pytest.fixture
def project(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A YAML, a model and a text, and the command line in this process, from an empty folder."""
    write_project(tmp_path / "project")
    return Project(tmp_path / "project", command_line(capsys, monkeypatch, tmp_path))
