"""lmkit models: every model class that there is, with its size and a line about it."""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmkit.cli.describe import first_paragraph
from lmkit.errors import LMKitError

if TYPE_CHECKING:
    from lmkit.model import LMBase

ZOO = "lmkit_models"
VOCABULARY = "python4k"  # travels in the package


@dataclass(frozen=True)
class Entry:
    """A model class and the short names that it goes by."""

    kind: type[LMBase]
    names: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes nothing."""


def run(arguments: argparse.Namespace) -> int:
    """Print a paragraph a class; one that cannot be opened is told of and left out."""
    from lmkit.text import Tiktoken

    tokenizer = Tiktoken(VOCABULARY)
    entries, failures = find_models()
    print(
        f"Parameters are counted with the {tokenizer.vocab_size:,} tokens of {VOCABULARY} and the\n"
        "arguments shown; all other arguments have their defaults.\n"
    )
    for entry in entries:
        short = f"  ({', '.join(entry.names)})" if entry.names else ""
        print(f"{entry.kind.__module__}.{entry.kind.__qualname__}{short}")
        print(f"    {first_paragraph(entry.kind)}")
        print(f"    {_size(entry.kind, tokenizer)}")
    for failure in failures:
        print(f"{failure.at}: cannot be opened: {failure.what}")
    print("\n`lmkit describe NAME` shows what a class can be given.")
    return 0


def find_models() -> tuple[list[Entry], list[LMKitError]]:
    """The model classes of the zoo and of installed plug-ins, and what could not be opened."""
    from lmkit.config import resolve
    from lmkit.model import LMBase

    names: dict[type[LMBase], list[str]] = {}
    failures = []
    for path, short in _candidates():
        try:
            target = resolve(path, short or path)
        except LMKitError as error:
            failures.append(error)
            continue
        if inspect.isclass(target) and issubclass(target, LMBase):
            names.setdefault(target, []).extend([short] if short else [])
    return [Entry(kind, tuple(shorts)) for kind, shorts in names.items()], failures


def _candidates() -> Iterator[tuple[str, str]]:
    """(module.Class, short name or nothing): of the entry points, then of the zoo's modules."""
    from importlib.metadata import entry_points

    from lmkit.config.names import ENTRY_POINTS

    for point in sorted(entry_points(group=ENTRY_POINTS)):
        yield point.value.replace(":", "."), point.name
    for info in pkgutil.iter_modules(importlib.import_module(ZOO).__path__, f"{ZOO}."):
        for name, value in vars(importlib.import_module(info.name)).items():
            if inspect.isclass(value) and value.__module__ == info.name:
                yield f"{info.name}.{name}", ""


def _size(kind: type[LMBase], tokenizer: Any) -> str:
    """`7,340,114 parameters at depth=1`; nothing is allocated for them."""
    import torch

    from lmkit.config import parameters
    from lmkit.train.loading import build_model

    # 1 is the least that a measure without a default can be
    least = {p.name: 1 for p in parameters(kind) if p.required and p.annotation is int}
    shown = ", ".join(f"{name}={value}" for name, value in least.items()) or "its defaults"
    try:
        with torch.device("meta"):
            path = f"{kind.__module__}.{kind.__qualname__}"
            model = build_model({"class": path, **least}, tokenizer)
    except LMKitError as error:
        return f"cannot be made with {shown}: {error.what}"
    return f"{model.parameter_count():,} parameters at {shown}"
