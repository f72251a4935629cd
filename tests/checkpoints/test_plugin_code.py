"""The user's modules travel with a checkpoint, and are found again only where that is safe."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmkit.checkpoints.plugin_code import class_names, open_code, warn_of_changes, write_code
from lmkit.config.registry import add_search_folder, resolve
from lmkit.errors import CheckpointError

MODULE = "import lmkit.errors\nimport json\nfrom plug_bricks import brick\n\nclass Net:\n    pass\n"


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    """Neither modules nor search folders of one test are seen by the next."""
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("plug_")]:
        del sys.modules[name]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a model, what it imports, a package, and a file that nothing needs. It lies
    below the current one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "home"
    (folder / "plug_package" / "parts").mkdir(parents=True)
    (folder / "plug_model.py").write_text(MODULE)
    (folder / "plug_bricks.py").write_text("def brick():\n    return 1\n")
    (folder / "plug_other.py").write_text("")
    (folder / "plug_package" / "__init__.py").write_text("from .parts.deep import Deep\n")
    (folder / "plug_package" / "parts" / "deep.py").write_text(
        "from .. import side\n\nclass Deep:\n    pass\n"
    )
    (folder / "plug_package" / "side.py").write_text("")
    add_search_folder(folder)
    return folder


def write(folder: Path, *paths: str) -> Path:
    for path in paths:
        resolve(path)
    folder.mkdir(parents=True, exist_ok=True)
    experiment = {"model": {"class": paths[0], "inner": [{"class": path} for path in paths[1:]]}}
    write_code(folder, experiment)
    return folder


def kept(folder: Path) -> list[str]:
    files = (folder / "code").rglob("*.py")
    return sorted(path.relative_to(folder / "code").as_posix() for path in files)


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("plug_")]:
        del sys.modules[name]
    sys.path[:] = [path for path in sys.path if not path.endswith(("/home", "/code", "/here"))]


def test_a_module_is_kept_with_those_it_imports_and_no_others(home: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "c", "plug_model.Net", "torch.nn.Linear", "lmkit_models.mlp.MLP")
    assert kept(folder) == ["plug_bricks.py", "plug_model.py"]
    assert (folder / "code" / "plug_model.py").read_text() == MODULE
    sources = json.loads((folder / "code" / "sources.json").read_text())["sources"]
    assert {source["root"] for source in sources} == {str(home)}


def test_a_package_is_kept_as_a_package(home: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "c", "plug_package.Deep")
    assert kept(folder) == [
        "plug_package/__init__.py", "plug_package/parts/deep.py", "plug_package/side.py",
    ]  # fmt: skip


def test_a_class_of_the_standard_library_leaves_no_code(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", "collections.Counter", "lmkit_models.mlp.MLP")
    assert not (folder / "code").exists()
    assert open_code(folder, trust_code=False) == []


def test_imports_that_register_short_names_are_kept(home: Path, tmp_path: Path) -> None:
    import plug_other  # type: ignore[import-not-found]  # noqa: F401

    (tmp_path / "c").mkdir()
    write_code(tmp_path / "c", {"imports": ["plug_other"], "model": {"class": "gpt"}})
    assert kept(tmp_path / "c") == ["plug_other.py"]


def test_an_unchanged_file_is_used_from_where_it_was(home: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "c", "plug_model.Net")
    forget()
    open_code(folder, trust_code=False)
    assert sys.modules[resolve("plug_model.Net").__module__].__file__ == str(home / "plug_model.py")


def test_what_the_run_imported_is_kept_whatever_happens_to_the_file(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "c1", "plug_model.Net")
    (home / "plug_model.py").write_text("an edit that is (not Python")
    (home / "plug_bricks.py").unlink()
    folder = write(tmp_path / "c2", "plug_model.Net")
    assert (folder / "code" / "plug_model.py").read_text() == MODULE
    assert kept(folder) == ["plug_bricks.py", "plug_model.py"]
    resolve("plug_other.__name__")
    (home / "plug_other.py").unlink()
    write(tmp_path / "c3", "plug_other.__name__")
    assert "plug_other.py: no copy is kept" in caplog.text


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_a_changed_file_is_never_run_unasked(home: Path, tmp_path: Path, change: str) -> None:
    folder = write(tmp_path / "c", "plug_model.Net")
    forget()
    if change == "gone":
        (home / "plug_bricks.py").unlink()
    else:
        (home / "plug_bricks.py").write_text("raise SystemExit('canary')\n")
    with pytest.raises(CheckpointError) as caught:
        open_code(folder, trust_code=False)
    said = str(caught.value)
    assert f"needs the module plug_bricks, and {home / 'plug_bricks.py'}" in said
    for file in ("plug_bricks.py", "plug_model.py"):  # just what would be run
        copy = folder / "code" / file
        assert f"{copy} (sha256 {hashlib.sha256(copy.read_bytes()).hexdigest()})" in said
    assert "; --trust-code runs " in said
    assert caught.value.exit_code == 3


def test_the_copy_is_run_when_trusted(home: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "c", "plug_model.Net")
    forget()
    (home / "plug_model.py").write_text("raise SystemExit('canary')\n")
    open_code(folder, trust_code=True)
    module = sys.modules[resolve("plug_model.Net").__module__]
    assert module.__file__ == str(folder / "code" / "plug_model.py")


def test_the_current_folder_comes_first_if_unchanged(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "c", "plug_model.Net")
    forget()
    here = tmp_path / "here"
    home.rename(here)
    monkeypatch.chdir(here)
    open_code(folder, trust_code=False)
    assert sys.modules[resolve("plug_model.Net").__module__].__file__ == str(here / "plug_model.py")


def test_a_module_edited_since_is_used_where_it_is_found_and_said(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "c", "plug_model.Net")
    forget()
    with (home / "plug_model.py").open("a") as file:
        file.write("# edited\n")
    monkeypatch.chdir(home)
    sources = open_code(folder, trust_code=False)
    resolve("plug_model.Net")
    with caplog.at_level(logging.WARNING):
        warn_of_changes(sources)
    assert "plug_model.py is not the file this checkpoint was made with" in caplog.text
    assert "plug_bricks.py" not in caplog.text


@pytest.mark.parametrize(
    "entry",
    [
        {},
        3,
        {"module": "a"},
        {"module": "", "root": "r", "file": "a", "sha256": ""},
        {"module": 3, "root": "r", "file": "a", "sha256": ""},
        {"module": "a", "root": 3, "file": "a", "sha256": ""},
    ],
)
def test_a_damaged_index_is_a_checkpoint_error(tmp_path: Path, entry: object) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sources.json").write_text(json.dumps({"sources": [entry]}))
    with pytest.raises(CheckpointError, match=r"code/sources\.json is damaged"):
        open_code(tmp_path, trust_code=False)


def test_an_index_cannot_point_outside(home: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "c", "plug_model.Net")
    index = folder / "code" / "sources.json"
    index.write_text(index.read_text().replace('"plug_model.py"', '"../../home/plug_model.py"'))
    with pytest.raises(CheckpointError, match="outside the folder"):
        open_code(folder, trust_code=False)


def test_classes_are_found_at_any_depth() -> None:
    nested = {"class": "a", "x": [{"class": "b"}, {"y": {"class": "c", "z": ({"class": "d"},)}}]}
    assert list(class_names(nested)) == ["a", "b", "c", "d"]
