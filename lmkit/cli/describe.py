"""lmkit describe: what a class can be given: its arguments with types, defaults and docs."""

from __future__ import annotations

import argparse
import inspect
import shutil
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lmkit.config.sections import SECTIONS, described_as
from lmkit.errors import ConfigError

if TYPE_CHECKING:
    from lmkit.config import Parameter

INDENT = " " * 4
WIDEST = 100  # columns; longer lines are hard to read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "name",
        help="module.Class or a short name, such as lmkit_models.gpt.GPT or gpt; or what a YAML is "
        f"made of: {', '.join(SECTIONS)}",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the class's first paragraph, then an entry an argument."""
    from lmkit.config import parameters, resolve
    from lmkit.config.names import full_name
    from lmkit.lab.catalogue import KINDS  # first: of what is loaded `resolve` knows the last names

    target = resolve(SECTIONS.get(arguments.name, arguments.name))
    if not callable(target):
        raise ConfigError(
            "it is neither a class nor a function", hint="write module.Class", at=arguments.name
        )
    print(f"{full_name(target)}\n")
    if about := first_paragraph(target):
        print(_filled(about, ""), end="\n\n")
    given = next((kind.given for kind in KINDS.values() if kind.holds(target)), ())
    for parameter in parameters(target):
        print(_headline(parameter, given))
        if parameter.doc:
            print(indented(parameter.doc))
    return 0


def first_paragraph(target: Any) -> str:
    """The beginning of its own docstring, on one line; empty if there is none.

    A base class's would tell something else: what all models are, and not this one.
    """
    own = vars(target).get("__doc__") if inspect.isclass(target) else target.__doc__
    return " ".join(inspect.cleandoc(own or "").partition("\n\n")[0].split())


def indented(text: str) -> str:
    """A paragraph, filled, to stand under its headline."""
    return _filled(text, INDENT)


def _headline(parameter: Parameter, given: Sequence[str]) -> str:
    words = [parameter.name]
    if parameter.annotation is not Any:
        words.append(f": {_type_name(parameter.annotation)}")
    if parameter.name in given:
        words.append("  (given by lmkit)")
    elif parameter.required:
        words.append("  (needed)")
    elif not parameter.inherited or parameter.default is not None:
        words.append(f" = {_default(parameter.default)}")
    return "".join(words)


def _default(value: Any) -> str:
    from lmkit.config import Spec

    if isinstance(value, Spec):
        return value.path
    shown = described_as(type(value))
    return f"its own defaults, see `lmkit describe {shown}`" if shown in SECTIONS else repr(value)


def _type_name(annotation: Any) -> str:
    """`int | None`, `Literal['auto']`, `Tokenizer`: as it was written, without modules."""
    if annotation is None or annotation is types.NoneType:
        return "None"
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, inner))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, inner))}]"
    if inner and inspect.isclass(origin):
        return f"{origin.__name__}[{', '.join(map(_type_name, inner))}]"
    if annotation is Ellipsis:
        return "..."
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)


def _filled(text: str, indent: str) -> str:
    width = min(shutil.get_terminal_size().columns, WIDEST)
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)
