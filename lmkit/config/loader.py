"""loader: a YAML file as tables that know their lines; knows no class and no experiment.

YAML with its traps shut: ``3e-4`` is a number, a key cannot come twice, 010 and 1:30 are not
secretly 8 and 90, a date stays text, no tag makes an object, and no file, however it nests or
repeats itself, eats the memory.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from lmkit.config.overlay import merge, put
from lmkit.config.spec import Place, Table
from lmkit.config.types import NUMBER, Unfit, to_bool
from lmkit.errors import ConfigError, did_you_mean

MAX_BYTES = 256 * 1024  # a hundred times a long experiment
MAX_DEPTH = 40
MAX_VALUES = 20_000  # after aliases are followed: nine lines of aliases make a billion

_TAG = "tag:yaml.org,2002:"


class _Composer(yaml.SafeLoader):
    """PyYAML's parser, with fewer guesses about plain words and a limit to nesting."""

    yaml_implicit_resolvers = {}
    depth = 0
    values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        self.values += 1
        problem = "it is nested too deeply" if self.depth > MAX_DEPTH else ""
        if self.values > MAX_VALUES:  # to read more takes seconds
            problem = f"it has more than {MAX_VALUES} values"
        if problem:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _name, _pattern, _first in (
    ("null", r"(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", "(?i:true|yes|on|false|no|off)$", list("yYnNtTfFoO")),
    ("float", f"{NUMBER}$", list("-+.0123456789")),
    ("merge", "<<$", ["<"]),
):
    _Composer.add_implicit_resolver(_TAG + _name, re.compile(_pattern, re.ASCII), _first)


def read_yaml(path: str | Path) -> Table:
    """Read a file, laid over the one that its ``extends:`` names, if it does.

    Returns:
        the mapping; every table in it knows the place of itself and of its keys.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8, not YAML, not one mapping, has a
            key twice, or extends itself; names file and line.
    """
    return _read(str(path), Place(), ())


def apply_overrides(table: Table, overrides: Iterable[str]) -> None:
    """Set ``a.b=c`` for each override, in place: values are YAML, stages go by name or index.

    The whole is set before its parts: ``model.depth=2 model=my_model.Mine`` sets the depth of
    ``my_model.Mine``. Whether a key is right is found with all the others, when the classes are
    compared with it; its place is then ``override 'a.b=c'``.

    Raises:
        ConfigError: an override is not ``a.b=c``, or leads to a stage that is not there.
    """
    changes = [_parse_override(text) for text in overrides]
    for keys, value, place in sorted(changes, key=lambda change: _depth(change[0])):
        put(table, keys, value, place)


def read_value(text: str, at: Place) -> Any:
    """A value written in YAML outside of a file: on the command line.

    Raises:
        ConfigError: it is not YAML; names `at`.
    """
    return _Reader("", at).read(text)


def _parse_override(text: str) -> tuple[tuple[str, ...], Any, Place]:
    place = Place(f"override {text!r}")
    path, equals, value = text.partition("=")
    keys = tuple(path.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError("it sets nothing", hint="write a.b=c", at=place)
    return keys, read_value(value, place), place


def _depth(keys: tuple[str, ...]) -> float:
    """How late to set it; a class, which drops its old arguments, goes before other parts."""
    return len(keys) - 0.5 * (keys[-1] == "class")


def _read(file: str, asked_at: Place, chain: tuple[str, ...]) -> Table:
    if "\0" in file:
        raise ConfigError(f"{file!r} is no path", hint="there is a NUL in it", at=asked_at)
    real = os.path.realpath(file)
    if real in chain:
        raise ConfigError(f"{file} extends itself", hint="break the circle", at=asked_at)
    table = _Reader(file).read(_read_text(file, asked_at))
    if table is None:
        raise ConfigError("the file is empty", hint="write name:, model:, ...", at=file)
    if not isinstance(table, Table):
        raise ConfigError(
            f"the file must be a mapping, not a {type(table).__name__}",
            hint="write key: value",
            at=file,
        )
    if "extends" not in table:
        return table
    base, at = table.pop("extends"), table.places.pop("extends")
    if not isinstance(base, str):
        raise ConfigError("'extends' must name one file", hint="write extends: other.yaml", at=at)
    below = _read(os.path.normpath(os.path.join(os.path.dirname(file), base)), at, (*chain, real))
    merge(below, table)
    return below


def _read_text(file: str, asked_at: Place) -> str:
    path = Path(file)
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{file} is not a file", hint="name a YAML file", at=asked_at)
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = sorted(path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = did_you_mean(path.name, [each.name for each in near]) or f"this is {os.getcwd()}"
        raise ConfigError(f"there is no file {file}", hint=hint, at=asked_at) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}", at=asked_at) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"it is over {MAX_BYTES // 1024} KiB, no experiment", at=file)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        hint = "a YAML file is text"
        raise ConfigError("this is not UTF-8", hint=hint, at=Place(file, line)) from None


class _Reader:
    """One document: from PyYAML's nodes to tables, lists and scalars with their places."""

    def __init__(self, file: str, place: Place | None = None) -> None:
        self.file = file
        self.fixed = place
        self.values = 0

    def read(self, text: str) -> Any:
        try:
            composer = _Composer(text)
            node = composer.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            tab = "\\t" in (error.problem or "")
            hint = "indent with spaces" if tab else ""
            self.fail(mark.line if mark else None, error.problem or "this is not YAML", hint)
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n")
            self.fail(line, f"the character U+{error.character:04X} is not allowed")
        except (ValueError, OverflowError):
            self.fail(None, "an escape like \\UFFFFFFFF names no character")
        return None if node is None else self.value(node, 0)

    def fail(self, line: int | None, what: str, hint: str = "") -> NoReturn:
        at = self.fixed or Place(self.file, None if line is None else line + 1)
        raise ConfigError(what, hint=hint, at=at)

    def place(self, node: yaml.Node) -> Place:
        return self.fixed or Place(self.file, node.start_mark.line + 1)

    def value(self, node: yaml.Node, depth: int) -> Any:
        self.values += 1
        if depth > MAX_DEPTH:
            self.fail(node.start_mark.line, "an alias stands inside itself")
        if self.values > MAX_VALUES:
            self.fail(node.start_mark.line, f"aliases unfold to more than {MAX_VALUES} values")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self.table(node, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        return self.refuse_tag(node)

    def table(self, node: yaml.MappingNode, depth: int) -> Table:
        table = Table(at=self.place(node))
        merged: list[yaml.Node] = []
        for key_node, item in node.value:
            if key_node.tag == _TAG + "merge":
                merged += item.value if isinstance(item, yaml.SequenceNode) else [item]
                continue
            key = self.key(key_node)
            if key in table:
                first = f"it stands in line {table.places[key].line} already"
                self.fail(key_node.start_mark.line, f"the key {key!r} comes twice", first)
            table[key] = self.value(item, depth + 1)
            table.places[key] = self.place(key_node)
        for item in merged:
            below = self.value(item, depth + 1)
            if not isinstance(below, Table):
                self.fail(item.start_mark.line, "'<<' merges mappings only", "write <<: *name")
            for key in [key for key in below if key not in table]:
                table[key], table.places[key] = below[key], below.places[key]
        return table

    def key(self, node: yaml.Node) -> str:
        """As it is written: ``no:`` and ``1:`` are the words "no" and "1"."""
        if not isinstance(node, yaml.ScalarNode):
            self.fail(node.start_mark.line, "a key must be a plain word")
        return self.text(node)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        tag = node.tag.removeprefix(_TAG)
        if tag == "null":
            return None
        if tag == "bool":
            return self.word(node)
        if tag == "float":
            return self.number(node)
        if tag in ("str", "merge"):
            return self.text(node)
        return self.refuse_tag(node)

    def text(self, node: yaml.ScalarNode) -> str:
        text = str(node.value)
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            self.fail(node.start_mark.line, "a text holds a NUL or half a surrogate pair")
        return text

    def word(self, node: yaml.ScalarNode) -> bool:
        try:
            return to_bool(node.value)
        except Unfit as error:  # only an explicit !!bool can be anything else
            self.fail(node.start_mark.line, f"{node.value!r} is not {error.due}")

    def number(self, node: yaml.ScalarNode) -> int | float:
        line, digits = node.start_mark.line, node.value.replace("_", "")
        if len(digits) > 40 or not re.fullmatch(NUMBER, digits, re.ASCII):
            self.fail(line, f"{digits[:40]!r} is no number that can be kept")
        if not digits.lstrip("+-").isdigit():
            number = float(digits)
            if math.isinf(number):
                self.fail(line, f"{digits} is too large")
            return number
        if re.match(r"[-+]?0\d", digits):
            hint = f"write {int(digits)}, or {digits!r} for text"
            self.fail(line, f"{digits} would be octal to some readers of YAML", hint)
        return int(digits)

    def refuse_tag(self, node: yaml.Node) -> NoReturn:
        tag = node.tag.replace(_TAG, "!!")
        self.fail(
            node.start_mark.line,
            f"the tag {tag} is not read",
            "name a class with {class: module.Class}" if "python" in tag else "",
        )
