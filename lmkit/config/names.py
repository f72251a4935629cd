"""names: from ``module.Class`` or a short name to the object; the only place that imports plug-ins.

A module beside the YAML or in the current folder is found like an installed one. Whatever goes
wrong in a plug-in is told apart: no such module, a module it needs itself is missing, it fails
while importing, it has no such name.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from lmkit.errors import ConfigError, LMKitError, PluginError, did_you_mean, is_out_of_memory

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "lmkit.plugins"
_OURS = __name__.partition(".")[0]
_LIBRARIES = (_OURS, "torch")
MEND = "mend it where its traceback ends"

_folders: list[str] = []
_registered: dict[str, Any] = {}

T = TypeVar("T")


def add_search_folder(folder: str | Path) -> None:
    """Find modules in ``folder`` from now on, before those of the same name anywhere else.

    A module that was imported from a folder added earlier is forgotten when this one has its own
    of that name, so that two experiments with a ``my_model.py`` each can run in one process.
    """
    home = str(Path(folder).resolve())
    for info in pkgutil.iter_modules([home]):
        if _is_from_another_folder(info.name, home):
            forget(info.name)
    for known in (sys.path, _folders):
        if home in known:
            known.remove(home)
        known.insert(0, home)
    importlib.invalidate_caches()


def give_way(folder: str | Path) -> None:
    """Let modules that came from ``folder`` be forgotten for those of a folder added later."""
    _folders.append(str(Path(folder).resolve()))


def register(name: str) -> Callable[[T], T]:
    """Give a class or function a short name: ``@register("mine")``, then ``class: mine``.

    Raises:
        ConfigError: the name has a dot in it, or belongs to something else already.
    """
    if "." in name or not name:
        raise ConfigError(f"{name!r} cannot be a short name", hint="a short name has no dot")

    def keep(target: T) -> T:
        known = _registered.setdefault(name, target)
        if full_name(known) != full_name(target):
            raise ConfigError(
                f"{full_name(target)} and {full_name(known)} both register as {name!r}",
                hint="rename one of them",
            )
        _registered[name] = target  # a module imported again brings the same class anew
        return target

    return keep


def resolve(path: str, at: object = None) -> Any:
    """Open ``module.Class`` (nested attributes count), a registered name or an entry point.

    Raises:
        ConfigError: no module, class or short name is called so; the nearest one is named.
        PluginError: the module is there but fails while importing; holds its traceback.
    """
    if path in _registered:
        return _registered[path]
    if "." not in path:
        return _entry_point(path, at)
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{path!r} is not a name", hint="write module.Class", at=at)
    found, depth = _deepest_module(parts, at)
    for index in range(depth, len(parts)):
        found = _attribute(found, parts, index, at)
    return found


def full_name(target: Any) -> str:
    """`module.Class` of a class or function, wherever it was found."""
    return f"{target.__module__}.{target.__qualname__}"


def is_of_python(target: Any) -> bool:
    """True for what Python itself brings; not for a module of one's own that hides one of those."""
    top = str(getattr(target, "__module__", "")).partition(".")[0]
    return top in sys.stdlib_module_names and not _is_from_another_folder(top, "")


def load_module(name: str, at: object = None) -> ModuleType:
    """Import a whole module for what it registers.

    Raises:
        ConfigError, PluginError: as ``resolve``.
    """
    module = _import(name, at)
    if module is None:
        raise _no_module(name, at)
    return module


def _deepest_module(parts: list[str], at: object) -> tuple[ModuleType, int]:
    """Import as many leading parts as are modules; the last part never is one."""
    module = None
    for depth in range(1, len(parts)):
        name = ".".join(parts[:depth])
        found = _import(name, at)
        if found is None:
            if module is None:
                raise _no_module(name, at)
            return module, depth - 1
        module = found
    assert module is not None
    return module, len(parts) - 1


def _import(name: str, at: object) -> ModuleType | None:
    """The module, or None if there is none of that name."""
    with plugin_errors(f"module {name} fails while importing", at, MEND):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                return None
            said = f"module {name} needs {error.name or error!s}, which is not installed"
            raise plugin_error(said, error, at, "install it, or put it beside the YAML") from error


@contextmanager
def plugin_errors(
    doing: str,
    at: object = None,
    hint: str = "",
    passes: Callable[[BaseException], bool] = lambda error: False,
) -> Iterator[None]:
    """Turn what a plug-in raises inside the block into a PluginError that begins with `doing`.

    SystemExit too: a plug-in does not end the program, with 0 at that. lmkit's own errors pass, and
    so does want of memory.

    Args:
        passes: what else is no fault of the plug-in.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, LMKitError) or is_out_of_memory(error) or passes(error):
            raise
        said = f"{doing}: {type(error).__name__}: {error}"
        raise plugin_error(said, error, at, hint) from error


def plugin_error(what: str, error: BaseException, at: object, hint: str = "") -> PluginError:
    """A PluginError that carries the error's stack from the plug-in's own frames on."""
    stack = _after(_is_machinery, error.__traceback__)
    stack = _after(_is_library, stack) or stack
    shown = "".join(traceback.format_exception(type(error), error, stack))
    return PluginError(what, hint=hint, at=at, traceback=shown)


def _after(skipped: Callable[[str], bool], stack: TracebackType | None) -> TracebackType | None:
    """The stack without its first frames, as far as their files are skipped."""
    while stack is not None and skipped(stack.tb_frame.f_code.co_filename):
        stack = stack.tb_next
    return stack


def _is_machinery(file: str) -> bool:
    importing = file == importlib.__file__ or file.startswith("<frozen importlib")
    return importing or Path(file).parent == Path(__file__).parent


def _is_library(file: str) -> bool:
    """True for lmkit's own files and torch's, which lead to a plug-in that is at work."""
    homes = [sys.modules[name].__file__ for name in _LIBRARIES if name in sys.modules]
    return any(Path(file).is_relative_to(Path(str(home)).parent) for home in homes)


def _no_module(name: str, at: object) -> ConfigError:
    known = {info.name for info in pkgutil.iter_modules()} | {
        module for module in sys.modules if "." not in module
    }
    known |= {re.split(r"[.:]", point.value)[0] for point in _entry_points().values()}
    # 0.7 of lmkit_models is in my_model, which is there but in another folder
    hint = did_you_mean(name, known, 0.8)
    hint = hint or "it must be installed, beside the YAML or in this folder"
    return ConfigError(f"there is no module {name!r}", hint=hint, at=at)


def _attribute(owner: Any, parts: list[str], depth: int, at: object) -> Any:
    name, owner_name = parts[depth], ".".join(parts[:depth])
    try:
        return getattr(owner, name)
    except AttributeError:
        inside = pkgutil.iter_modules(getattr(owner, "__path__", ()))
        lazy = getattr(owner, "__all__", ())  # opened on first use, so `dir` has them not
        choices = [*dir(owner), *lazy, *(info.name for info in inside)]
        hint = did_you_mean(name, choices) or _classes_of(owner)
        raise ConfigError(f"{owner_name} has no {name!r}", hint=hint, at=at) from None
    except ImportError as error:  # a package that opens its names on first use
        said = f"{owner_name} fails while importing {name}: {error}"
        raise plugin_error(said, error, at) from error


def _classes_of(owner: Any) -> str:
    own = getattr(owner, "__all__", None) or [
        name
        for name, value in vars(owner).items()
        if isinstance(value, type) and value.__module__ == getattr(owner, "__name__", "")
    ]
    return f"it has {', '.join(own[:8])}" if own else "it has no class"


def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # 20 ms, and only short names need it

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _entry_point(name: str, at: object) -> Any:
    points = _entry_points()
    if name in points:
        return resolve(points[name].value.replace(":", "."), at)
    full = _class_called(name)
    hint = f"did you mean {full!r}?" if full else did_you_mean(name, [*_registered, *points])
    raise ConfigError(
        f"nothing is registered as {name!r}", hint=hint or "write module.Class", at=at
    )


def _class_called(name: str) -> str | None:
    """The full name of a class called so: of what is loaded of lmkit, or of torch's optimizers."""
    for module in sorted(sys.modules):
        if module.partition(".")[0] == _OURS or module == "torch.optim":
            found = vars(sys.modules[module]).get(name)
            if isinstance(found, type) and module in (found.__module__, "torch.optim"):
                return f"{module}.{name}"
    return None


def _is_from_another_folder(top: str, home: str) -> bool:
    file = getattr(sys.modules.get(top), "__file__", None)
    if file is None or top == _OURS:
        return False
    path = Path(file).resolve()
    folder = str(path.parent.parent if path.stem == "__init__" else path.parent)
    return folder != home and folder in _folders


def forget(top: str) -> None:
    """Drop a top-level module, what it holds, and the short names it registered."""
    gone = {name for name in sys.modules if name.partition(".")[0] == top}
    for module in gone:
        del sys.modules[module]
    for name in [name for name, kept in _registered.items() if kept.__module__ in gone]:
        del _registered[name]
