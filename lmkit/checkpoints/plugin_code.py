"""plugin_code: the user's own modules that a checkpoint was made with, kept and found again.

Each is copied into the checkpoint's code/, to be read. It is run from there only when asked for
(`trust_code`), and then just the files that the message has named. Otherwise the user's own file is
taken: from the current folder or, below it, from where it was when the checkpoint was written, as
long as it is what it was. A folder that only the checkpoint names is no place to run code from.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import logging
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from lmkit.checkpoints.durable import sha256_of
from lmkit.checkpoints.manifest import read_json, regular_file
from lmkit.checkpoints.record import write_file
from lmkit.checkpoints.trusted import run_copies
from lmkit.config.registry import add_search_folder, resolve
from lmkit.errors import CheckpointError

logger = logging.getLogger(__name__)

FOLDER = "code"
INDEX = f"{FOLDER}/sources.json"
OURS = ("lmkit", "lmkit_models")


@dataclass(frozen=True)
class Source:
    """A module's file: `root` has to be on the search path, `file` lies below it."""

    module: str
    root: Path
    file: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where the file lay when the checkpoint was written."""
        return self.root / self.file


def class_path(kind: type) -> str:
    """`module.Class`; for a class of the script that was started, under the script's own name."""
    return f"{_importable_name(kind.__module__)}.{kind.__qualname__}"


def _importable_name(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    if module != "__main__" or file is None:
        return module
    name = Path(file).stem
    sys.modules.setdefault(name, sys.modules["__main__"])  # not a second time in this process
    return name


# ---------------------------------------------------------------------------- kept


def write_code(folder: Path, experiment: Mapping[str, Any]) -> None:
    """Copy the user's modules behind the classes an experiment names, and those they import."""
    modules = _user_modules(experiment)
    if not modules:
        return
    sources = []
    for name in sorted(modules):
        path = Path(str(modules[name].__file__)).resolve()
        file = _file_below_root(name, path)
        copy = folder / FOLDER / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        content = _source_of(modules[name])
        write_file(copy, [content])
        sources.append(
            {
                "module": name,
                "root": str(path.parents[len(Path(file).parts) - 1]),
                "file": file,
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
    text = json.dumps({"sources": sources}, indent=2)
    write_file(folder / INDEX, [f"{text}\n".encode()])


def code_hashes(experiment: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of the user's modules behind the classes that an experiment names, by name."""
    modules = _user_modules(experiment)
    return {name: hashlib.sha256(_source_of(modules[name])).hexdigest() for name in modules}


def changed_modules(folder: Path, experiment: Mapping[str, Any]) -> list[str]:
    """Which of the user's modules that a checkpoint was made with are others now; of those that
    either does without nothing is said, as whatever names them has changed too."""
    now = code_hashes(experiment)
    sources = _read_sources(folder)
    return [each.module for each in sources if now.get(each.module, each.sha256) != each.sha256]


def _user_modules(experiment: Mapping[str, Any]) -> dict[str, ModuleType]:
    found: dict[str, ModuleType] = {}
    waiting = [*experiment.get("imports", ()), *map(_module_of, class_names(experiment))]
    while waiting:
        name = waiting.pop()
        waiting += [name.rpartition(".")[0]] if "." in name else []
        module = sys.modules.get(name)
        if module is not None and name not in found and is_users(module):
            found[name] = module
            waiting += _imported_by(module)
    return found


def class_names(value: Any) -> Iterator[str]:
    """Every `class:` in nested mappings and lists."""
    if isinstance(value, Mapping):
        if isinstance(value.get("class"), str):
            yield value["class"]
        for item in value.values():
            yield from class_names(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from class_names(item)


def _module_of(path: str) -> str:
    """The module that a class is named in, or, for a short name, defined in."""
    if is_ours(path):
        return path
    return path.rpartition(".")[0] or str(getattr(resolve(path), "__module__", ""))


def is_ours(module: str) -> bool:
    """True for lmkit and its zoo."""
    return module.partition(".")[0] in OURS


def is_users(module: ModuleType) -> bool:
    """True for a .py file that is neither ours, nor installed, nor Python's own."""
    file = getattr(module, "__file__", None)
    if file is None or is_ours(module.__name__):
        return False
    path = Path(file).resolve()
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    of_python = any(path.is_relative_to(folder) for folder in _python_folders())
    return path.suffix == ".py" and not installed and not of_python


@cache
def _python_folders() -> list[Path]:
    return [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]


@cache
def _source_of(module: ModuleType) -> bytes:
    """Read once: it may be edited or deleted while the run goes on with what it imported."""
    try:
        return Path(str(module.__file__)).read_bytes()
    except OSError as error:
        logger.warning("%s: no copy is kept with the checkpoint: %s", module.__file__, error)
        return b""


def _imported_by(module: ModuleType) -> list[str]:
    """The names that its import statements may mean; not all of them are modules."""
    try:
        tree = ast.parse(_source_of(module))
    except (SyntaxError, ValueError):  # edited since it was imported
        return []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, module.__package__ or "")
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _file_below_root(module: str, path: Path) -> str:
    """`pkg/part.py` of `/home/me/pkg/part.py`; the bare file name of a script."""
    parts = module.split(".")
    for file in (Path(*parts).with_suffix(".py"), Path(*parts, "__init__.py")):
        if path.parts[-len(file.parts) :] == file.parts:
            return file.as_posix()
    return path.name


# ---------------------------------------------------------------------------- found again


def open_code(folder: Path, *, trust_code: bool) -> list[Source]:
    """Make the user's modules of a checkpoint importable; its sources are given back.

    They are taken from the current folder, or from where they came from if that lies below it,
    whichever still has them unchanged; else whatever is importable under their name is used.

    Args:
        trust_code: run the copies in the checkpoint instead; which, a warning says.

    Raises:
        CheckpointError: a module is found nowhere, or the index of the copies is damaged.
    """
    sources = _read_sources(folder)
    if trust_code:
        if sources:
            logger.warning("%s: trusted, and run: %s", folder, _told(folder, sources))
            run_copies(folder / FOLDER, {source.module: source.file for source in sources})
        return sources
    for root in {source.root: None for source in sources}:
        _open_root(folder, root, [source for source in sources if source.root == root])
    return sources


def _open_root(folder: Path, root: Path, sources: list[Source]) -> None:
    here = Path.cwd()
    places = [place for place in (here, root) if _is_users_place(place, folder)]
    for place in places:
        if all(_is_unchanged(place / source.file, source) for source in sources):
            add_search_folder(place)
            return
    if here in places:
        add_search_folder(here)
    for source in sources:
        if not _is_importable(source.module.partition(".")[0]):
            raise CheckpointError(
                f"it needs the module {source.module}, and {source.path} {_lost(source, places)}",
                hint=f"--trust-code runs {_told(folder, sources)}",
                at=folder,
            )


def _is_users_place(place: Path, folder: Path) -> bool:
    """True for the current folder and those below it, but for what came with the checkpoint."""
    run = (
        folder.resolve().parent.parent if folder.resolve().parent.name == "checkpoints" else folder
    )
    real = place.resolve()
    named = place.is_absolute() and real.is_relative_to(Path.cwd())
    return named and not real.is_relative_to(run.resolve())


def _lost(source: Source, places: list[Path]) -> str:
    if not source.path.exists():
        return "is gone"
    return "has changed" if source.root in places else "is not below the current folder"


def _told(folder: Path, sources: list[Source]) -> str:
    """Exactly what would be run: each file with its sha256."""
    files = [folder / FOLDER / source.file for source in sources]
    return ", ".join(f"{file} (sha256 {sha256_of(file)})" for file in files)


def _is_unchanged(path: Path, source: Source) -> bool:
    return path.is_file() and sha256_of(path) == source.sha256


def _is_importable(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def is_imported_as_kept(source: Source) -> bool:
    """True when the module that this process imported is the user's, and the file is the same."""
    module = sys.modules.get(source.module)
    return (
        module is not None
        and is_users(module)
        and _is_unchanged(Path(str(module.__file__)), source)
    )


def warn_of_changes(sources: list[Source]) -> None:
    """Say which imported modules are not what the checkpoint was made with."""
    for source in sources:
        if source.module in sys.modules and not is_imported_as_kept(source):
            file = getattr(sys.modules[source.module], "__file__", source.module)
            logger.warning("%s is not the file this checkpoint was made with", file)


def _is_name_of_users(module: str) -> bool:
    """No module that `write_code` keeps has the name of one of Python's own or of ours."""
    parts = module.split(".")
    taken = parts[0] in sys.stdlib_module_names or is_ours(module)
    return all(part.isidentifier() for part in parts) and not taken


def _read_sources(folder: Path) -> list[Source]:
    if not (folder / INDEX).exists():
        return []
    try:
        entries = read_json(folder, INDEX)["sources"]
        sources = [Source(e["module"], Path(e["root"]), e["file"], e["sha256"]) for e in entries]
        names_are_good = all(_is_name_of_users(source.module) for source in sources)
        names_are_good &= all(source.file.endswith(".py") for source in sources)
    except (KeyError, TypeError, AttributeError, ValueError):
        names_are_good = False
    if not names_are_good:
        raise CheckpointError(f"{INDEX} is damaged", at=folder)
    for source in sources:
        copy = regular_file(folder / FOLDER, source.file)
        if not _is_unchanged(copy, source):
            raise CheckpointError(f"{FOLDER}/{source.file} is altered", at=folder)
    return sources
