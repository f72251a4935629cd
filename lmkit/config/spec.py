"""spec: a class named in a YAML, its arguments, and the line each was read from; opens nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lmkit.errors import ConfigError, LMKitError


@dataclass(frozen=True)
class Place:
    """Where a value was written: ``experiments/x.yaml:7``, an override, or nowhere (Python)."""

    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.line is None:
            return self.file or ""
        return f"{self.file}:{self.line}"


NOWHERE = Place()
READERS = {
    "lmkit.data.sources.TextFiles": (".txt", ".txt.gz", ".txt.zst"),
    "lmkit.data.sources.JsonLines": (".jsonl", ".jsonl.gz", ".jsonl.zst"),
    "lmkit.data.sources.Parquet": (".parquet",),
}


@contextmanager
def blame(at: Place, places: Mapping[str, Place] | None = None) -> Iterator[None]:
    """Tell what goes wrong inside with the line that led to it: of the key at fault, or ``at``.

    An error about another file gets the line in front; one that has a place already keeps it.
    """
    try:
        yield
    except LMKitError as error:
        place = (places or {}).get(getattr(error, "key", ""), at)
        if error.at is None:
            error.at = place
        elif place.file and not isinstance(error.at, Place):
            error.at = Place(f"{place}: {error.at}")
        raise


class Table(dict[str, Any]):
    """A mapping read from a file that knows its own place and the place of each key."""

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        at: Place = NOWHERE,
        places: Mapping[str, Place] | None = None,
    ) -> None:
        super().__init__(values or {})
        self.at = at
        self.places = dict(places or {})


@dataclass(frozen=True)
class Spec:
    """``module.Class`` and the arguments to build it with; ``build(spec)`` makes the object.

    ``args`` is frozen all the way down: lists become tuples, mappings read-only, and a mapping
    with a ``class`` key becomes a Spec itself. Two specs are equal wherever they were written.
    """

    path: str
    args: Mapping[str, Any] = field(default_factory=dict)
    at: Place = field(default=NOWHERE, compare=False)
    places: Mapping[str, Place] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise ConfigError(
                f"'class' must be a name, not {self.path!r}",
                hint="write module.Class",
                at=self.places.get("class", self.at),
            )
        for reader, endings in READERS.items():
            if self.path.endswith(endings):
                raise ConfigError(
                    f"{self.path!r} is a file, and a class is to be named here",
                    hint=f"write {{class: {reader}, path: {self.path}}}",
                    at=self.places.get("class", self.at),
                )
        frozen = {
            str(key): freeze(value, self.places.get(key, self.at))
            for key, value in self.args.items()
        }
        object.__setattr__(self, "args", MappingProxyType(frozen))

    @classmethod
    def of(cls, value: Spec | str | Mapping[str, Any], at: Place = NOWHERE) -> Spec:
        """Read ``"module.Class"`` or ``{class: module.Class, key: value}``.

        Raises:
            ConfigError: there is no ``class`` key, or its value is not a name.
        """
        if isinstance(value, Spec):
            return value
        if isinstance(value, str):
            return cls(value, at=at)
        if isinstance(value, Table):
            at = value.at
        if not isinstance(value, Mapping) or "class" not in value:
            raise ConfigError(
                "a class is to be named here", hint="write module.Class or {class: ...}", at=at
            )
        args = {key: item for key, item in value.items() if key != "class"}
        places = value.places if isinstance(value, Table) else {}
        return cls(value["class"], args, at, places)

    def with_args(self, **changes: Any) -> Spec:
        """The same class with some arguments changed or added."""
        return Spec(self.path, {**self.args, **changes}, self.at, self.places)

    def to_dict(self) -> dict[str, Any]:
        """``{"class": path, **args}`` in plain dicts and lists; ``Spec.of`` reads it back."""
        args = {key: thaw(value, Spec.to_dict) for key, value in self.args.items()}
        return {"class": self.path, **args}

    def __reduce__(self) -> tuple[Any, ...]:
        # a read-only mapping can be neither pickled nor copied, and specs go to worker processes
        args = {key: thaw(value, lambda spec: spec) for key, value in self.args.items()}
        return Spec, (self.path, args, self.at, dict(self.places))


def freeze(value: Any, at: Place = NOWHERE) -> Any:
    """A value nobody can change: Specs, read-only mappings, tuples; scalars are left alone."""
    if isinstance(value, Mapping):
        if "class" in value:
            return Spec.of(value, at)
        return MappingProxyType({str(key): freeze(item, at) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item, at) for item in value)
    return value


def thaw(value: Any, make: Callable[[Spec], Any]) -> Any:
    """The plain dicts and lists of a frozen value, with ``make`` done to every Spec in it."""
    if isinstance(value, Spec):
        return make(value)
    if isinstance(value, Mapping):
        return {key: thaw(item, make) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [thaw(item, make) for item in value]
    return value
