"""Copies are imported from the files that were named, of packages too, and from no others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmkit.checkpoints.trusted import run_copies
from lmkit.config.registry import add_search_folder, resolve
from lmkit.errors import PluginError


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("copied_")]:
        del sys.modules[name]


def put(folder: Path, file: str, source: str) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(source)


def test_a_package_is_what_was_named_of_it(tmp_path: Path) -> None:
    put(tmp_path, "copied_package/__init__.py", "from .part import where\n")
    put(tmp_path, "copied_package/part.py", "where = __file__\n")
    put(tmp_path, "copied_package/other.py", "")
    put(tmp_path, "copied_space/deep.py", "import copied_package.part as part\n")
    files = ("copied_package/__init__.py", "copied_package/part.py", "copied_space/deep.py")
    names = ("copied_package", "copied_package.part", "copied_space.deep")
    run_copies(tmp_path, dict(zip(names, files, strict=True)))
    assert resolve("copied_package.where") == str(tmp_path / "copied_package" / "part.py")
    assert resolve("copied_space.deep.part").where == resolve("copied_package.where")
    with pytest.raises(ModuleNotFoundError):
        __import__("copied_package.other")
    assert str(tmp_path) not in sys.path
    assert not list(tmp_path.rglob("__pycache__"))


def test_one_that_fails_is_told_like_any_plugin(tmp_path: Path) -> None:
    put(tmp_path, "copied_bad.py", "1 / 0\n")
    finders = list(sys.meta_path)
    with pytest.raises(PluginError, match="copied_bad fails while importing: ZeroDivisionError"):
        run_copies(tmp_path, {"copied_bad": "copied_bad.py"})
    assert sys.meta_path == finders


def test_the_last_word_has_who_comes_last(tmp_path: Path) -> None:
    for name in ("home", "one", "two"):
        put(tmp_path, f"{name}/copied_model.py", f"name = {name!r}\n")
    add_search_folder(tmp_path / "home")
    assert resolve("copied_model.name") == "home"
    for name in ("one", "two"):
        run_copies(tmp_path / name, {"copied_model": "copied_model.py"})
        assert resolve("copied_model.name") == name
    add_search_folder(tmp_path / "home")
    assert resolve("copied_model.name") == "home"
