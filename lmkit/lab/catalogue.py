"""catalogue: what a YAML can name, of lmkit and of installed plug-ins, by kind; makes nothing."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lmkit.checkpoints.durable import readable
from lmkit.config import parameters, resolve
from lmkit.config.names import ENTRY_POINTS, full_name
from lmkit.data import Source
from lmkit.data.known import KNOWN
from lmkit.data.vocabulary import train_tokenizer
from lmkit.errors import LMKitError
from lmkit.evals.task import Task
from lmkit.model import LMBase
from lmkit.text import Tokenizer
from lmkit.text.template import packaged
from lmkit.train.objective import Objective
from lmkit.train.runner import LMRunnerBase

DATASETS = "datasets"
TEMPLATES = "templates"


@dataclass(frozen=True)
class Entry:
    """What can be named.

    Attributes:
        path: how.
        names: short ones that mean the same.
        target: the class or function; of what is no code nothing, but
        about: what it is.
    """

    path: str
    names: tuple[str, ...] = ()
    target: Any = None
    about: str = ""


@dataclass(frozen=True)
class Kind:
    """What belongs together.

    Attributes:
        place: where in a YAML it is named, for a reader.
        packages: where it is looked for.
        holds: whether a class or function is one.
        given: the arguments that it gets from lmkit, and not from a YAML.
    """

    place: str
    packages: tuple[str, ...] = ()
    holds: Callable[[Any], bool] = lambda target: False
    given: tuple[str, ...] = ()


def find(kind: str) -> tuple[list[Entry], list[LMKitError]]:
    """All entries of a kind, and the plug-ins that could not be opened."""
    if kind == DATASETS:
        return [
            Entry(name, about=f"{data.about}. {readable(data.size)}, {data.licence}")
            for name, data in KNOWN.items()
            if data.columns is not None  # of the others only tasks can make something
        ], []
    if kind == TEMPLATES:
        return [Entry(name, about=_opening(each.source)) for name, each in packaged().items()], []
    wanted = KINDS[kind]
    shorts, failures = _plugins()
    found: dict[Any, str] = {}
    for target in shorts:
        found.setdefault(target, full_name(target))
    for package in wanted.packages:
        for path, target in _members(package):
            found[target] = path
    entries = [
        Entry(path, (*shorts.get(target, ()), *_task_names(path)), target)
        for target, path in found.items()
        if wanted.holds(target)
    ]
    return entries, failures


def _plugins() -> tuple[dict[Any, list[str]], list[LMKitError]]:
    """target -> short names, of the entry points."""
    from importlib.metadata import entry_points

    shorts: dict[Any, list[str]] = {}
    failures = []
    for point in sorted(entry_points(group=ENTRY_POINTS)):
        try:
            target = resolve(point.value.replace(":", "."), point.name)
        except LMKitError as error:
            failures.append(error)
            continue
        if callable(target):
            shorts.setdefault(target, []).append(point.name)
    return shorts, failures


def _members(package: str) -> Iterator[tuple[str, Any]]:
    """(path, class or function) that the modules of a package define; of torch's, that it shows."""
    top = importlib.import_module(package)
    if not package.startswith("lmkit"):
        shown = {name: value for name, value in vars(top).items() if inspect.isclass(value)}
        yield from ((f"{package}.{name}", value) for name, value in shown.items())
        return
    inside = pkgutil.walk_packages(getattr(top, "__path__", ()), f"{package}.")
    for module in (top, *(importlib.import_module(info.name) for info in inside)):
        for name, value in vars(module).items():
            is_own = getattr(value, "__module__", None) == module.__name__
            if is_own and callable(value) and not name.startswith("_"):
                yield f"{module.__name__}.{name}", value


def _task_names(path: str) -> Iterator[str]:
    from lmkit.tasks import TASKS

    yield from (name for name, target in TASKS.items() if target == path)


def _opening(template: str) -> str:
    """The comment that a template begins with."""
    return " ".join(template.partition("{#-")[2].partition("-#}")[0].split())


def _subclass(base: type) -> Callable[[Any], bool]:
    """Whether something is a class below `base` that can be made."""
    return lambda target: (
        inspect.isclass(target)
        and issubclass(target, base)
        and target is not base
        and not inspect.isabstract(target)
    )


def _is_source(target: Any) -> bool:
    return _subclass(Source)(target) and not issubclass(target, Task)


def _is_tokenizer(target: Any) -> bool:
    return _subclass(Tokenizer)(target) or target is train_tokenizer


def _is_optimizer(target: Any) -> bool:
    """One that steps without a closure, as OptimizerSet does."""
    if not _subclass(torch.optim.Optimizer)(target):
        return False
    closure = inspect.signature(target.step).parameters.get("closure")
    return closure is None or closure.default is not closure.empty


def _is_schedule(target: Any) -> bool:
    """A function of progress, or a class of such functions."""
    return "progress" in _call_takes(target)


def _is_reward(target: Any) -> bool:
    """A function of a problem and a completion, or a class of such functions."""
    sums_up = "task" in {each.name for each in parameters(target)}  # what GRPO makes of several
    return {"problem", "completion"} <= _call_takes(target) and not sums_up


def _call_takes(target: Any) -> set[str]:
    """The arguments of a function, or of the function that an object of a class is."""
    call = vars(target).get("__call__") if inspect.isclass(target) else target
    return {each.name for each in parameters(call)} if callable(call) else set()


_FOLDER = ("folder",)

KINDS = {
    "models": Kind("`model:`", ("lmkit_models",), _subclass(LMBase), ("tokenizer",)),
    "tokenizers": Kind(
        "`tokenizer:`", ("lmkit.text", "lmkit.data.vocabulary"), _is_tokenizer, _FOLDER
    ),
    TEMPLATES: Kind("`chat:` of a tokenizer"),
    "sources": Kind("`data:` of a stage", ("lmkit.data",), _is_source, _FOLDER),
    DATASETS: Kind("`name:` of lmkit.data.corpora.Corpus"),
    "tasks": Kind(
        "`tasks:` of an evaluation, or `data:`", ("lmkit.tasks",), _subclass(Task), _FOLDER
    ),
    "objectives": Kind("`objective:` of a stage", ("lmkit.rl",), _subclass(Objective), _FOLDER),
    "rewards": Kind("`rewards:` of lmkit.rl.grpo.GRPO", ("lmkit.rl.rewards",), _is_reward, _FOLDER),
    "optimizers": Kind("`optimizers:`", ("lmkit.optim", "torch.optim"), _is_optimizer, ("params",)),
    "schedules": Kind("`schedule:`", ("lmkit.optim.schedule",), _is_schedule, ("steps",)),
    "runners": Kind("`runner:`", ("lmkit.train.runner",), _subclass(LMRunnerBase), ("experiment",)),
}
