"""signature: what a class can be given, read from its constructor; judges no value."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_SECTION = re.compile(r"(?:Args|Arguments|Parameters):\s*")
_ENTRY = re.compile(r"\*{0,2}(?P<name>\w+)(?: ?\([^)]*\))?:\s+(?P<text>.+)")


@dataclass(frozen=True)
class Parameter:
    """One key that a class takes.

    Args:
        annotation: the type that is due; Any where it could not be read.
        default: None for a required one.
        doc: its ``name: text`` in the ``Args:`` of a docstring.
        inherited: it travels to a base class through ``**kwargs``.
    """

    name: str
    annotation: Any
    default: Any
    required: bool
    doc: str = ""
    inherited: bool = False


@dataclass(frozen=True)
class Signature:
    """The keys of a class, and whether it takes any other key as well."""

    parameters: tuple[Parameter, ...]
    is_open: bool


def parameters(target: Any) -> list[Parameter]:
    """What can be written for a class or a function, in the order of its signature.

    A constructor with ``**kwargs`` also takes what the constructors above it name. A dataclass
    field with ``compare=False`` belongs to the program, not to the file, and is left out.
    """
    return list(read_signature(target).parameters)


def read_signature(target: Any) -> Signature:
    """The parameters of ``target``; open if it takes ``**kwargs`` that no base is there to name.

    A catch-all below a base with names of its own forwards to that base: a key that neither
    names would be swallowed there, so it is refused.
    """
    own, is_open = _read(target, _docs_of(target))
    found = {parameter.name: parameter for parameter in own}
    hidden = _program_fields(target)
    for base, constructor in _constructors_above(target):
        if not is_open:
            break
        above, is_open = _read(constructor, _docs_of(base))
        for parameter in above[1:]:  # the first is self
            inherited = dataclasses.replace(parameter, inherited=True, required=False)
            found.setdefault(parameter.name, inherited)
    names_above = any(parameter.inherited for parameter in found.values())
    kept = tuple(parameter for name, parameter in found.items() if name not in hidden)
    return Signature(kept, is_open and not names_above)


def _constructors_above(target: Any) -> Iterator[tuple[type, Callable[..., Any]]]:
    """Each base above the one whose ``__init__`` runs for ``target``, with its own."""
    if inspect.isclass(target):
        owners = [base for base in target.__mro__[:-1] if "__init__" in vars(base)]
        for base in owners[1:]:
            yield base, vars(base)["__init__"]


def _read(target: Any, docs: dict[str, str]) -> tuple[list[Parameter], bool]:
    """The named parameters of one callable, and whether it has a ``**kwargs``."""
    try:
        found = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # written in C and silent about itself
        return [], True
    function = target.__init__ if inspect.isclass(target) else target
    docs = docs | _read_docs(inspect.getdoc(function))
    space = getattr(inspect.unwrap(function), "__globals__", {})
    named = [
        Parameter(
            name=parameter.name,
            annotation=_annotation(parameter.annotation, space),
            default=None if parameter.default is parameter.empty else parameter.default,
            required=parameter.default is parameter.empty,
            doc=docs.get(parameter.name, ""),
        )
        for parameter in found
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    return named, any(parameter.kind is parameter.VAR_KEYWORD for parameter in found)


def _annotation(written: Any, space: dict[str, Any]) -> Any:
    """What was written as an annotation; under ``from __future__ import annotations``, its text."""
    if written is inspect.Parameter.empty:
        return Any
    if not isinstance(written, str):
        return written
    try:
        return eval(written, space)  # the plug-in's own source, in its own module
    except Exception:  # a name of TYPE_CHECKING only, or local to a function: unchecked
        return Any


def _program_fields(target: Any) -> set[str]:
    if not dataclasses.is_dataclass(target):
        return set()
    return {field.name for field in dataclasses.fields(target) if not field.compare}


def _docs_of(target: Any) -> dict[str, str]:
    """``name -> text`` of a class and of those above it; the nearest one has the word."""
    docs: dict[str, str] = {}
    for owner in reversed(target.__mro__) if inspect.isclass(target) else [target]:
        doc = getattr(owner, "__doc__", None)
        docs |= _read_docs(inspect.cleandoc(doc) if isinstance(doc, str) else None)
    return docs


def _read_docs(doc: str | None) -> dict[str, str]:
    """``name -> text`` of the ``Args:`` block of a docstring; a deeper line continues an entry.

    Of the marks around code one is left, as in all that lmkit prints.
    """
    lines = iter((doc or "").replace("``", "`").splitlines())
    for line in lines:
        if _SECTION.fullmatch(line):
            break
    docs: dict[str, str] = {}
    name, indent = "", 0
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if not depth:
            break
        entry = _ENTRY.fullmatch(line.strip())
        if entry and (not name or depth <= indent):
            name, indent = entry["name"], depth
            docs[name] = entry["text"]
        elif name:
            docs[name] += f" {line.strip()}"
    return docs
