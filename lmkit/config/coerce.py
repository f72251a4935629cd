"""coerce: a value as its annotation wants it, a mapping as its class wants it; builds nothing.

One mechanism for every class that a YAML names, lmkit's own dataclasses included. What a
plain value can be is in ``types``; an annotation that says nothing to a YAML lets all pass.
"""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union

from lmkit.config.names import is_of_python, resolve
from lmkit.config.sections import instead
from lmkit.config.signature import read_signature
from lmkit.config.spec import NOWHERE, Place, Spec, Table, blame, freeze, thaw
from lmkit.config.types import SCALARS, Unfit
from lmkit.errors import ConfigError, did_you_mean

Make = Callable[[Spec], Any]  # what becomes of a spec where an object is due

_LISTS = {
    list: list, abc.Sequence: list, abc.MutableSequence: list, abc.Iterable: list,
    abc.Collection: list, set: set, abc.Set: set, frozenset: frozenset, tuple: tuple,
}  # fmt: skip
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
_UNIONS = (Union, types.UnionType)


def check(spec: Spec, offered: Iterable[str] = ()) -> dict[str, Any]:
    """The keyword arguments that ``spec`` gives, coerced, nested specs checked too.

    Args:
        spec: the class and what the file says about it.
        offered: names of the runtime objects that ``build`` will pass to those who declare them.

    Raises:
        ConfigError: a key is unknown, missing or ill-typed; names file, line, class and key.
    """
    names = tuple(offered)

    def check_inside(inner: Spec) -> Spec:
        check(inner, names)
        return inner

    return bind(spec, names, check_inside)


def bind(spec: Spec, offered: Iterable[str], make: Make) -> dict[str, Any]:
    """As ``check``, with ``make`` done to every nested spec."""
    target = resolve(spec.path, spec.at)
    if not callable(target):
        raise ConfigError(f"{spec.path} is not a class or a function", at=spec.at)
    if is_of_python(target):  # `os.system`: to see what it gives, it would have to be called
        raise ConfigError(
            f"{spec.path} is of Python's own library, and no part of an experiment",
            hint="name a class of lmkit's, of an installed package or of your own",
            at=spec.at,
        )
    table = Table(spec.args, spec.at, spec.places)
    return _arguments(target, table, f"{spec.path}: ", offered, make)


def coerce(
    value: Any, annotation: Any, at: Place = NOWHERE, name: str = "value", make: Make | None = None
) -> Any:
    """``value`` as the annotation asks for it.

    Numbers may be written ``2M`` or ``3e-4``, a dataclass as a mapping, a Spec as a bare string;
    a bool is never a number.

    Args:
        value: a plain value, as YAML or JSON has it.
        annotation: the type that is due.
        at: where the value was written.
        name: what to call it in an error.
        make: what becomes of a class that is named where an object is due; refused without it.

    Raises:
        ConfigError: it does not fit; says what is due, under ``name`` and ``at``.
    """
    if isinstance(value, Mapping) and "class" in value:
        value = Spec.of(value, at)
    try:
        return _Coercion(at, name, make or _make_nothing).fit(value, annotation)
    except Unfit as unfit:
        what = f"{name} must be {unfit.due}, not {_shown(value)}"
        raise ConfigError(what, hint=unfit.hint, at=at) from None


def _arguments(
    target: Any, table: Table, prefix: str, offered: Iterable[str], make: Make
) -> dict[str, Any]:
    """Compare the keys of a table with the signature of ``target``, and coerce their values."""
    signature = read_signature(target)
    known = {parameter.name: parameter for parameter in signature.parameters}
    label = prefix.rstrip(": .")
    arguments = {}
    for key, value in table.items():
        at = table.places.get(key, table.at)
        parameter = known.get(key)
        if parameter is None and not signature.is_open:
            own = [name for name in known if name not in offered]
            raise ConfigError(f"{label} takes no {key!r}", hint=instead(target, key, own), at=at)
        wanted = Any if parameter is None else parameter.annotation
        if value is None and parameter and not parameter.required and parameter.default is None:
            wanted = None  # `width: int = None`, as older code writes an Optional
        if parameter is not None and isinstance(parameter.default, Spec):
            value = _with_class(value, parameter.default.path)
        arguments[key] = coerce(value, wanted, at, prefix + key, make)
    for parameter in signature.parameters:
        if parameter.required and parameter.name not in {*arguments, *offered}:
            raise ConfigError(f"{label} needs {parameter.name!r}", hint=parameter.doc, at=table.at)
    return arguments


def _with_class(value: Any, path: str) -> Any:
    """Arguments alone, `runner: {max_batch_size: 4}`, are for the class that is the default."""
    if not isinstance(value, Table) or "class" in value:
        return value
    return Table({"class": path, **value}, value.at, value.places)


@dataclass(frozen=True)
class _Coercion:
    """One value on its way: where it stands, what it is called, what becomes of specs in it."""

    at: Place
    name: str
    make: Make

    def fit(self, value: Any, annotation: Any) -> Any:
        """The value as ``annotation`` asks for it; raises Unfit."""
        kind = typing.get_origin(annotation) or annotation
        inner = typing.get_args(annotation)
        if kind is typing.Annotated:
            return self.fit(value, inner[0])
        if not isinstance(kind, abc.Hashable) or kind in (Any, object):
            return thaw(freeze(value, self.at), self.make)
        if kind is Spec:
            return self._spec(value)
        if kind in _UNIONS:
            return self._union(value, inner)
        if kind is Literal:
            return self._literal(value, inner)
        if kind in (None, type(None)):
            return self._null(value)
        if kind in SCALARS:
            return SCALARS[kind](value)
        if kind in _LISTS:
            return _LISTS[kind](self._list(value, kind, inner))
        if kind in _MAPPINGS:
            return self._mapping(value, inner)
        if isinstance(value, Spec) or not inspect.isclass(kind):
            return thaw(freeze(value, self.at), self.make)
        return self._instance(value, kind)

    def _spec(self, value: Any) -> Spec:
        if not isinstance(value, str | Spec):
            raise Unfit("a class", "write module.Class or {class: module.Class, ...}")
        return Spec.of(value, self.at)

    def _null(self, value: Any) -> None:
        if value is not None:
            raise Unfit("null")

    def _union(self, value: Any, members: tuple[Any, ...]) -> Any:
        """By the first member that fits; one whose very type the value has comes before.

        A string is read as a number where that is possible: ``int | str`` makes 2000000 of "2M".
        """
        literals = [member for member in members if typing.get_origin(member) is Literal]
        numbers = [member for member in members if member in (int, float)]
        exact = [member for member in members if type(value) is member]
        first = [*literals, *numbers, *exact] if isinstance(value, str) else exact
        unfit: list[Unfit] = []
        inside: ConfigError | None = None  # an error about a part of the value tells more
        for member in [*first, *members]:
            try:
                return self.fit(value, member)
            except Unfit as error:
                unfit.append(error)
            except ConfigError as error:
                inside = inside or error
        if inside is not None:
            raise inside
        dues = dict.fromkeys(error.due for error in unfit if error.due != "null")
        raise Unfit(" or ".join(dues), next((error.hint for error in unfit if error.hint), ""))

    def _literal(self, value: Any, choices: tuple[Any, ...]) -> Any:
        if any(value == choice and type(value) is type(choice) for choice in choices):
            return value
        words = [choice for choice in choices if isinstance(choice, str)]
        raise Unfit(" or ".join(map(_shown, choices)), did_you_mean(value, words))

    def _list(self, value: Any, kind: Any, inner: tuple[Any, ...]) -> list[Any]:
        if isinstance(value, str):
            raise Unfit("a list", f"write [{value}]")
        if not isinstance(value, list | tuple | set | frozenset):
            raise Unfit("a list")
        wanted = inner
        if kind is not tuple or inner[1:] == (Ellipsis,) or not inner:
            wanted = (inner or (Any,))[:1] * len(value)
        if len(wanted) != len(value):
            raise Unfit(f"a list of {len(wanted)}")
        pairs = enumerate(zip(value, wanted, strict=True))
        return [self._part(item, want, str(i)) for i, (item, want) in pairs]

    def _mapping(self, value: Any, inner: tuple[Any, ...]) -> dict[Any, Any]:
        if isinstance(value, Spec):  # a mapping is due, and as such it was written
            value = value.to_dict()
        if not isinstance(value, Mapping):
            raise Unfit("a mapping", "write {key: value}")
        key_type, item_type = inner if len(inner) == 2 else (Any, Any)
        return {
            self._part(key, key_type, "key"): self._part(item, item_type, str(key))
            for key, item in value.items()
        }

    def _part(self, value: Any, annotation: Any, key: str) -> Any:
        at = value.at if isinstance(value, Table) else self.at
        return coerce(value, annotation, at, f"{self.name}.{key}", self.make)

    def _instance(self, value: Any, kind: Any) -> Any:
        """An object of a class that is neither plain nor a container."""
        if isinstance(value, str) and kind in (type, abc.Callable):
            return resolve(value, self.at)
        if _is_instance(value, kind):
            return value
        if dataclasses.is_dataclass(kind):
            return self._dataclass(value, kind)
        if isinstance(value, str):
            return self.make(Spec(value, at=self.at))
        raise Unfit(kind.__name__, "write module.Class or {class: module.Class, ...}")

    def _dataclass(self, value: Any, kind: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Unfit(f"{kind.__name__}'s keys", "write {key: value}")
        table = value if isinstance(value, Table) else Table(value, self.at)
        arguments = _arguments(kind, table, f"{self.name}.", (), self.make)
        if {"at", "places"} <= {each.name for each in dataclasses.fields(kind) if not each.compare}:
            arguments |= {"at": table.at, "places": table.places}
        with blame(table.at, table.places):
            return kind(**arguments)


def _make_nothing(spec: Spec) -> Any:
    raise Unfit("a plain value")


def _is_instance(value: Any, kind: Any) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:  # a Protocol or TypedDict, which cannot be asked at run time
        return True


def _shown(value: Any) -> str:
    text = f"the class {value.path}" if isinstance(value, Spec) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
