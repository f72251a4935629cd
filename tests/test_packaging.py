"""What `pip install` puts on a disk: the right needs, every folder, every file that is no code."""

from __future__ import annotations

import configparser
from fnmatch import fnmatch
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import lmkit

ROOT = Path(__file__).parent.parent
PACKAGES = ("lmkit", "lmkit_models")
CORE = {"torch", "tiktoken", "pyyaml", "tqdm", "safetensors", "tensorboard"}


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def names(requirements: str) -> set[str]:
    return {line.split(">=")[0] for line in requirements.split()}


def test_the_core_is_small_and_admits_older_torch(setup: configparser.ConfigParser) -> None:
    assert names(setup["options"]["install_requires"]) == CORE
    assert "torch>=2.10" in setup["options"]["install_requires"].split()


def test_dev_brings_what_every_test_needs(setup: configparser.ConfigParser) -> None:
    extras = setup["options.extras_require"]
    assert {"pytest", "hypothesis", "ruff", "mypy"} <= names(extras["dev"])
    assert names(extras["bpe"]) | {"pyarrow", "zstandard"} <= names(extras["dev"])


def test_constraints_pin_torch() -> None:
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().split()


def test_no_folder_is_left_behind() -> None:
    """`find:` skips a folder without `__init__.py` and says nothing."""
    folders = {file.parent for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


def test_files_that_are_no_code_travel_too(setup: configparser.ConfigParser) -> None:
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, line in setup["options.package_data"].items()
        for pattern in line.split(", ")
    ]
    files = [file.relative_to(ROOT) for p in PACKAGES for file in (ROOT / p).rglob("*.*")]
    others = [f for f in files if f.suffix not in (".py", ".pyc")]
    assert others
    assert [str(f) for f in others if not any(fnmatch(str(f), p) for p in patterns)] == []


def test_the_installed_version_is_the_one_here() -> None:
    assert version("lmkit") == lmkit.__version__


def test_plugins_open() -> None:
    points = {point.name: point for point in entry_points(group="lmkit.plugins")}
    assert {"gpt", "gpt2", "mlp", "gru"} <= points.keys()
    for point in points.values():
        assert callable(point.load())
    (command,) = entry_points(group="console_scripts", name="lmkit")
    assert callable(command.load())
