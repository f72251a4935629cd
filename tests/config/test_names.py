"""names: what can be named is opened, and each way to fail is told apart."""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch  # here: what a test imports is forgotten after it, and torch comes only once

from lmkit.config import names
from lmkit.config.names import add_search_folder, load_module, plugin_errors, register, resolve
from lmkit.errors import ConfigError, DataError, LMKitError, PluginError

Write = Callable[..., str]
_count = itertools.count()


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(names, "_folders", [])
    monkeypatch.setattr(names, "_registered", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def plugin(tmp_path: Path) -> Write:
    """Write a module of a fresh name into a search folder."""

    def write(source: str) -> str:
        name = f"plugin_{next(_count)}"
        (tmp_path / f"{name}.py").write_text(source)
        add_search_folder(tmp_path)
        return name

    return write


def test_classes_nested_classes_and_functions_are_found(plugin: Write) -> None:
    name = plugin("class Outer:\n    class Inner:\n        pass\n")
    assert resolve(f"{name}.Outer.Inner").__qualname__ == "Outer.Inner"
    assert resolve("os.path.join") is __import__("os").path.join


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("lmkitt.errors.LMKitError", "there is no module 'lmkitt'; did you mean 'lmkit'?"),
        ("lmkit.erors.LMKitError", "lmkit has no 'erors'; did you mean 'errors'?"),
        ("lmkit.errors.LMKitEror", "lmkit.errors has no 'LMKitEror'; did you mean 'LMKitError'?"),
        ("lmkit.errors.LMKitError.x", "lmkit.errors.LMKitError has no 'x'"),
        ("zzz_qqq.X", "it must be installed, beside the YAML or in this folder"),
        ("my-model.X", "is not a name"),
        ("..", "is not a name"),
        ("a..b", "is not a name"),
        ("", "nothing is registered as ''"),
        ("zzz_qqq", "nothing is registered as 'zzz_qqq'; write module.Class"),
    ],
)
def test_what_is_not_there_is_named_with_its_neighbour(path: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(path, at="x.yaml:7")
    assert str(caught.value).startswith("x.yaml:7: ")
    assert said in str(caught.value)
    assert not isinstance(caught.value, PluginError)


def test_a_plugin_that_lacks_a_package_is_not_itself_missing(plugin: Write) -> None:
    name = plugin("import no_such_package_anywhere\n")
    with pytest.raises(PluginError) as caught:
        resolve(f"{name}.X", at="x.yaml:7")
    said = f"x.yaml:7: module {name} needs no_such_package_anywhere, which is not installed"
    assert str(caught.value) == f"{said}; install it, or put it beside the YAML"
    assert f"{name}.py" in caught.value.traceback
    assert "importlib" not in caught.value.traceback


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('bye')", "SystemExit: bye"),
        ("def broken(:\n", "SyntaxError"),
        ("from os import no_such_name", "ImportError"),
    ],
)
def test_a_plugin_that_fails_shows_its_own_stack(plugin: Write, source: str, said: str) -> None:
    name = plugin(source)
    with pytest.raises(PluginError) as caught:
        resolve(f"{name}.X")
    assert f"module {name} fails while importing: {said}" in str(caught.value)
    assert said.partition(":")[0] in caught.value.traceback


def test_a_plugin_at_work_shows_the_frames_from_its_caller_on(plugin: Write) -> None:
    work = resolve(plugin("def work(value):\n    return 1 / value\n") + ".work")
    with pytest.raises(PluginError) as caught, plugin_errors("it fails", "x.yaml:7", "mend it"):
        work(0)
    assert str(caught.value).startswith("x.yaml:7: it fails: ZeroDivisionError: ")
    assert str(caught.value).endswith("; mend it")
    lines = caught.value.traceback.splitlines()
    files = [line.split('"')[1] for line in lines if line.startswith("  File ")]
    assert files == [__file__, work.__code__.co_filename]


def test_want_of_memory_is_no_fault_of_a_plugin_nor_what_is_said_to_pass() -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ):
        with pytest.raises(RuntimeError, match="memory"), plugin_errors("it fails"):
            raise error
    with pytest.raises(KeyError), plugin_errors("x", passes=lambda e: isinstance(e, KeyError)):
        raise KeyError("a")


def test_a_plugin_at_work_does_not_end_the_program_and_lmkits_errors_pass() -> None:
    with pytest.raises(PluginError, match="^it fails: SystemExit: 0$"), plugin_errors("it fails"):
        sys.exit(0)
    told = DataError("no text", at="lines:3")
    with pytest.raises(DataError) as caught, plugin_errors("it fails"):
        raise told
    assert caught.value is told
    with pytest.raises(KeyboardInterrupt), plugin_errors("it fails"):
        raise KeyboardInterrupt


def test_a_name_that_is_opened_lazily_and_fails(plugin: Write) -> None:
    name = plugin("def __getattr__(name):\n    import no_such_package_anywhere\n")
    with pytest.raises(PluginError, match="no_such_package_anywhere"):
        resolve(f"{name}.X")


def test_a_module_beside_the_yaml_wins_over_one_imported_before(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_name.py").write_text(
            "from lmkit.config.names import register\nfrom sibling import WHO\n"
            "@register('short')\nclass Mine:\n    who = WHO\n"
        )
        (tmp_path / folder / "sibling.py").write_text(f"WHO = {folder!r}\n")
    seen = []
    for folder in ("a", "b", "a"):
        add_search_folder(tmp_path / folder)
        seen.append((resolve("same_name.Mine").who, resolve("short").who))
    assert seen == [("a", "a"), ("b", "b"), ("a", "a")]


def test_a_folder_never_replaces_lmkit_or_what_is_installed(tmp_path: Path) -> None:
    installed = {name: sys.modules[name] for name in ("lmkit", "yaml", "re")}
    for name in installed:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError\n")
    add_search_folder(Path(installed["lmkit"].__path__[0]).parent)
    add_search_folder(tmp_path)
    assert {name: sys.modules[name] for name in installed} == installed


def test_short_names() -> None:
    class Mine:
        pass

    assert register("mine")(Mine) is Mine
    assert register("mine")(Mine) is Mine
    assert resolve("mine") is Mine
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        resolve("mime")

    class Other:
        pass

    with pytest.raises(ConfigError, match="both register as 'mine'"):
        register("mine")(Other)
    with pytest.raises(ConfigError, match="no dot"):
        register("a.b")


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("fraction", "fractions:Fraction", names.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    assert resolve("fraction").__name__ == "Fraction"
    with pytest.raises(ConfigError, match="did you mean 'fraction'"):
        resolve("fracton")


def test_load_module_imports_for_what_it_registers(plugin: Write) -> None:
    name = plugin(
        "from lmkit.config.names import register\n@register('loaded')\nclass A:\n    pass\n"
    )
    load_module(name)
    assert resolve("loaded").__name__ == "A"
    with pytest.raises(ConfigError, match="there is no module 'zzz_qqq'"):
        load_module("zzz_qqq", at="x.yaml:1")


def test_an_lmkit_error_of_a_plugin_passes_as_it_is(plugin: Write) -> None:
    name = plugin("from lmkit.errors import DataError\nraise DataError('no such corpus')\n")
    with pytest.raises(LMKitError, match="^no such corpus$"):
        resolve(f"{name}.X")


def test_without_a_near_name_the_classes_are_told(plugin: Write) -> None:
    name = plugin("import pathlib\nfrom pathlib import Path\nclass A: ...\nclass B: ...\n")
    with pytest.raises(ConfigError, match=f"{name} has no 'Xyz'; it has A, B$"):
        resolve(f"{name}.Xyz")
    with pytest.raises(ConfigError, match="lmkit.optim has no 'Xyz'; it has AdamW, Muon"):
        resolve("lmkit.optim.Xyz")
