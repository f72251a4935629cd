"""signature: the keys of functions, classes and inherited constructors, with types and docs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lmkit.config.signature import parameters, read_signature

if TYPE_CHECKING:
    from fractions import Fraction


class Base:
    """A base.

    Args:
        width: how wide.
    """

    def __init__(self, width: int, name: str = "", **extra: Any) -> None: ...


class Forwards(Base):
    """One that hands the rest on.

    Args:
        depth: how deep,
            over two lines.
        heads (int): how many heads, ``auto`` of them for ``depth``.

    Returns:
        nothing: not an argument.
    """

    def __init__(
        self, depth: int = 2, heads: int | Literal["auto"] = "auto", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)


class Closed(Base):
    def __init__(self, depth: int = 2) -> None:
        super().__init__(3)


def names(target: Any) -> list[str]:
    return [parameter.name for parameter in parameters(target)]


def test_names_types_defaults_and_docs() -> None:
    depth, heads, width, name = parameters(Forwards)
    assert (depth.name, depth.annotation, depth.default, depth.required) == ("depth", int, 2, False)
    assert depth.doc == "how deep, over two lines."
    assert heads.annotation == int | Literal["auto"]
    assert heads.doc == "how many heads, `auto` of them for `depth`."
    assert (width.name, width.doc, width.inherited) == ("width", "how wide.", True)
    assert not width.required  # the class may give it itself
    assert name.default == ""


def test_a_base_is_asked_only_if_it_is_forwarded_to() -> None:
    assert names(Closed) == ["depth"]
    assert names(Base) == ["width", "name"]
    assert parameters(Base)[0].required


def test_only_a_catch_all_that_no_base_explains_takes_any_key() -> None:
    class Module:
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    class Open(Module):
        def __init__(self, depth: int, **options: Any) -> None: ...

    assert read_signature(Base).is_open
    assert read_signature(Open).is_open
    assert not read_signature(Forwards).is_open
    assert not read_signature(Closed).is_open


def test_three_floors_of_constructors() -> None:
    class Third(Forwards):
        def __init__(self, extra: bool, **kwargs: Any) -> None: ...

    assert names(Third) == ["extra", "depth", "heads", "width", "name"]

    class Fourth(Closed):
        def __init__(self, extra: bool, **kwargs: Any) -> None: ...

    assert names(Fourth) == ["extra", "depth"]

    class Silent(Forwards):
        pass

    assert names(Silent) == names(Forwards)


def test_annotations_that_cannot_be_read_are_any() -> None:
    def function(a: Fraction, b: NoSuchName, c, d: int):  # type: ignore[no-untyped-def] # noqa: F821
        ...

    assert [parameter.annotation for parameter in parameters(function)] == [Any, Any, Any, int]


def test_fields_that_are_not_compared_belong_to_the_program() -> None:
    @dataclass
    class Thing:
        width: int
        hidden: str = field(default="", compare=False)

    assert names(Thing) == ["width"]


def test_docs_of_a_class_above_count() -> None:
    class Above:
        """Above.

        Args:
            width: of it.
            depth: of it.
        """

        def __init__(self, width: int, depth: int) -> None: ...

    class Below(Above):
        """Below.

        Args:
            depth: another.
        """

    assert {p.name: p.doc for p in parameters(Below)} == {"width": "of it.", "depth": "another."}


def test_positional_only_and_silent_callables() -> None:
    def function(a: int, /, b: int, *rest: int, c: int = 3) -> None: ...

    assert names(function) == ["b", "c"]
    assert read_signature(dict).is_open
    assert names(dict) == []
