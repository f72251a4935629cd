"""The house: who may import whom, no circles, a light door, and the names on it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import lmkit

ROOT = Path(lmkit.__file__).parent.parent
FLOORS = {
    "errors": 0, "prompts": 1, "config": 2, "ranks": 3, "text": 3, "nn": 3, "optim": 4,
    "data": 4, "inference": 4, "model": 5, "checkpoints": 6, "evals": 6, "tasks": 7, "train": 7,
    "rl": 8, "serve": 8, "lab": 8, "interop": 8, "cli": 9, "__main__": 10,
}  # fmt: skip
ZOO_MAY_IMPORT = ("lmkit.errors", "lmkit.model", "lmkit.nn", "lmkit_models")
SOURCES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for package in ("lmkit", "lmkit_models")
    for file in sorted((ROOT / package).rglob("*.py"))
}
LIGHT = ["lmkit", "lmkit.errors", "lmkit.prompts", "lmkit.config", "lmkit.cli"]
HEAVY = {"torch", "numpy", "tiktoken", "safetensors", "tensorboard", "tqdm"}


def imports(source: str, module: str, is_package: bool, types: bool = True) -> Iterator[str]:
    """What ``source`` imports of lmkit and lmkit_models, inside functions too: full module names.

    The names that ``lmkit`` itself opens lazily count as the module they live in. What stands
    under ``if TYPE_CHECKING:`` counts with ``types`` only.
    """
    package = module if is_package else module.rpartition(".")[0]
    tree = ast.parse(source)
    if not types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *filter(None, [node.module])]) if node.level else node.module
            names = [inside(f"{base}.{alias.name}", str(base)) for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ("lmkit", "lmkit_models"))


def inside(name: str, base: str) -> str:
    if base == "lmkit" and name in SOURCES:
        return name
    if base == "lmkit":
        return lmkit._HOMES.get(name.removeprefix("lmkit."), "lmkit")
    return name if name in SOURCES else base


def floor_error(module: str, imported: str) -> str | None:
    """Why ``module`` must not import ``imported``, or None if it may."""
    if module == "lmkit":
        return None  # the public face names rooms of every floor, for type checkers only
    room, other = (name.split(".")[1:2] for name in (module, imported))
    if module.startswith("lmkit_models"):
        allowed = any(f"{imported}.".startswith(f"{name}.") for name in ZOO_MAY_IMPORT)
        return None if allowed else f"{module}: the zoo must not import {imported}"
    if imported.startswith("lmkit_models"):
        return f"{module}: lmkit never imports {imported}, a YAML names it"
    if not other or room == other:
        return None
    if FLOORS[room[0]] <= FLOORS[other[0]]:
        return f"{module} (floor {FLOORS[room[0]]}) imports {imported} (floor {FLOORS[other[0]]})"
    return None


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of the graph, its first module repeated at the end, or nothing."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for imported in sorted(graph.get(module, ())):
            found = walk(imported, [*path, module])
            if found:
                return found
        done.add(module)
        return []

    return next(filter(None, (walk(module, []) for module in graph)), [])


def house(types: bool = True) -> dict[str, set[str]]:
    return {
        module: set(imports(file.read_text(), module, file.stem == "__init__", types)) - {module}
        for module, file in SOURCES.items()
    }


def floor_errors(graph: dict[str, set[str]]) -> list[str]:
    pairs = ((module, name) for module, names in graph.items() for name in sorted(names))
    return [error for error in (floor_error(*pair) for pair in pairs) if error]


def test_every_room_has_a_floor() -> None:
    rooms = {module.split(".")[1] for module in SOURCES if module.startswith("lmkit.")}
    assert rooms <= FLOORS.keys()


def test_nobody_imports_a_higher_floor() -> None:
    assert floor_errors(house()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lmkit.text.batch", "from lmkit.train.runner import LMRunnerBase"),
        ("lmkit.text.batch", "def f():\n    import lmkit.model"),
        ("lmkit.text.batch", "if TYPE_CHECKING:\n    from lmkit.model import LMBase"),
        ("lmkit.text.batch", "from lmkit import LMBase"),
        ("lmkit.text.batch", "from ..data import sources"),
        ("lmkit.text.batch", "import lmkit.nn.cache"),
        ("lmkit.errors", "from lmkit import prompts"),
        ("lmkit.train.runner", "import lmkit_models.gpt"),
        ("lmkit.cli", "from lmkit_models import gpt"),
        ("lmkit_models.gpt", "from lmkit.optim import Muon"),
        ("lmkit_models.gpt", "from lmkit import Batch"),
    ],
)
def test_an_upward_import_is_caught(module: str, source: str) -> None:
    assert floor_errors({module: set(imports(source, module, is_package=False))})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lmkit.text.batch", "import torch\nfrom lmkit.errors import DataError\nimport lmkit"),
        ("lmkit.text.batch", "from . import packing\nfrom lmkit.text.packing import pack"),
        ("lmkit.train.runner", "from lmkit import LMBase, Batch, __version__"),
        ("lmkit_models.gpt", "from lmkit.nn import attend\nfrom lmkit import LMBase"),
    ],
)
def test_a_downward_import_is_not(module: str, source: str) -> None:
    assert not floor_errors({module: set(imports(source, module, is_package=False))})


def test_no_circles() -> None:
    assert circle(house(types=False)) == []


def test_a_circle_is_caught() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def loaded_by(modules: Iterable[str]) -> set[str]:
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    return {name.partition(".")[0] for name in shown.split()}


def test_the_door_is_light() -> None:
    assert not loaded_by(name for name in LIGHT if name in SOURCES) & HEAVY


def test_a_heavy_door_would_be_seen() -> None:
    assert loaded_by(["numpy"]) & HEAVY == {"numpy"}


def test_public_names() -> None:
    assert sorted(lmkit.__all__) == sorted(lmkit._HOMES)
    assert set(dir(lmkit)) == {*lmkit.__all__, "__version__"}
    for name in lmkit.__all__:
        assert getattr(lmkit, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'LMBsae'"):
        _ = lmkit.LMBsae


def test_packages_say_what_they_export() -> None:
    """A name in a package's ``__all__`` is there, and every other import there is a mistake."""
    for module, file in SOURCES.items():
        tree = ast.parse(file.read_text())
        if file.stem != "__init__" or module == "lmkit":
            continue
        imported = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lmkit")
            for alias in node.names
        }
        listed = {
            name
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            for name in ast.literal_eval(node.value)
        }
        assert not listed or imported <= listed, module
