"""coerce: every annotation gets what it asks for or an error that names key, value and remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Protocol, TypedDict, TypeVar, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.config.coerce import check, coerce
from lmkit.config.names import register
from lmkit.config.spec import Place, Spec, Table
from lmkit.errors import ConfigError, LMKitError

HERE = Place("x.yaml", 7)


class Reads(Protocol):
    def read(self) -> str: ...


class Typed(TypedDict):
    x: int


@dataclass(frozen=True)
class Inner:
    width: int = 1
    words: tuple[str, ...] = ()
    at: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ConfigError("width must not be negative", key="width")


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        ("2M", int, 2_000_000),
        ("3e-4", float, 3e-4),
        ("no", bool, False),
        ("x", str, "x"),
        ("x", Path, Path("x")),
        (None, int | None, None),
        (None, Optional[int], None),  # noqa: UP045
        ("4k", int | None, 4000),
        ("auto", int | Literal["auto"], "auto"),
        ("2M", int | str, 2_000_000),
        ("2M", Union[str, int], 2_000_000),  # noqa: UP007
        ("many", int | str, "many"),
        (5, str | int, 5),
        (5, float | int, 5),
        ("3e-4", str | float, 3e-4),
        (True, int | bool, True),
        ([1, "2k"], list[int], [1, 2000]),
        ((1, 2), list, [1, 2]),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([1, "x"], tuple[int, str], (1, "x")),
        (["0.9", 1], tuple[float, float], (0.9, 1.0)),
        (["a"], Sequence[str], ["a"]),
        (["a", "a"], set[str], {"a"}),
        ({"1": "2k"}, dict[int, int], {1: 2000}),
        ({"a": [1]}, Mapping[str, Any], {"a": [1]}),
        ({"a": {"class": "b.C"}}, dict[str, Spec], {"a": Spec("b.C")}),
        ({"class": "b.C", "x": 1}, dict[str, Any], {"class": "b.C", "x": 1}),
        ("b.C", Spec, Spec("b.C")),
        ({"class": "b.C", "x": 1}, Spec, Spec("b.C", {"x": 1})),
        ({"width": "3"}, Inner, Inner(3)),
        ({"words": ["a"]}, Inner | None, Inner(words=("a",))),
        ("os.path.join", Callable[..., str], __import__("os").path.join),
        ("fractions.Fraction", type[Fraction], Fraction),
        (3, Annotated[int, "a number"], 3),
        ([1, {"a": 2}], Any, [1, {"a": 2}]),
        ("x", TypeVar("T"), "x"),
        ("x", "Unresolved", "x"),
        ({"x": "not checked"}, Typed, {"x": "not checked"}),
        (3, [int], 3),
        (Fraction(1, 2), Fraction, Fraction(1, 2)),
    ],
)
def test_what_fits(value: Any, annotation: Any, result: Any) -> None:
    found = coerce(value, annotation, HERE, "key")
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "annotation", "said"),
    [
        (True, int, "key must be an integer, not True"),
        (1.5, int, "key must be an integer, not 1.5; like 4"),
        (True, float, "must be a number, not True"),
        (1, bool, "must be true or false, not 1"),
        (3, str, "must be a string, not 3; put it in quotes"),
        (False, str, "must be a string, not False; put it in quotes"),
        (None, int, "must be an integer, not None"),
        ("many", int | None, "must be an integer, not 'many'"),
        (
            "atuo",
            int | Literal["auto"],
            "must be 'auto' or an integer, not 'atuo'; did you mean 'auto'",
        ),
        ("adamv", Literal["adamw", "muon"], "must be 'adamw' or 'muon', not 'adamv'; did you mean"),
        (True, Literal[1], "must be 1, not True"),
        ("abc", list[str], "must be a list, not 'abc'; write [abc]"),
        ("abc", tuple[str, ...], "must be a list"),
        ([1, 2, 3], tuple[int, int], "must be a list of 2"),
        ([1, "x"], list[int], "key.1 must be an integer, not 'x'"),
        (["x"], list[int] | None, "key.0 must be an integer, not 'x'"),
        ({"a": "x"}, dict[str, int], "key.a must be an integer"),
        ({"x": 1}, dict[int, int], "key.key must be an integer, not 'x'"),
        (3, dict[str, int], "must be a mapping, not 3"),
        (3, Spec, "must be a class, not 3; write module.Class"),
        ({"clas": "b.C"}, Spec, "must be a class"),
        ({"class": 3}, Spec, "'class' must be a name, not 3"),
        ({"class": "b.C"}, int, "must be an integer, not the class b.C"),
        (3, Fraction | str, "must be Fraction or a string, not 3"),
        ({"widht": 3}, Inner, "key takes no 'widht'; did you mean 'width'?"),
        ({"at": "x"}, Inner, "key takes no 'at'"),
        ({"width": "x"}, Inner, "key.width must be an integer"),
        ({"class": "b.C"}, Inner, "must be a plain value, not the class b.C"),
        ({"class": "b.C"}, Any, "must be a plain value, not the class b.C"),
        ({"width": -1}, Inner, "width must not be negative"),
        (3, Inner, "must be Inner's keys, not 3; write {key: value}"),
        ("x", Inner, "must be Inner's keys, not 'x'"),
        (3, Callable[..., str], "must be Callable, not 3; write module.Class"),
        ("lmkit.errors.X", type, "lmkit.errors has no 'X'"),
    ],
)
def test_what_does_not_fit(value: Any, annotation: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        coerce(value, annotation, HERE, "key")
    assert str(caught.value).startswith("x.yaml:7: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ({"class": "b.C", "x": 1}, Fraction),
        ({"class": "b.C", "x": 1}, Any),
        ({"class": "b.C", "x": 1}, Callable[..., int]),
        ({"class": "b.C", "x": 1}, Inner | None),
        ({"class": "b.C", "x": 1}, Reads),
    ],
)
def test_a_class_is_made_where_an_object_is_due(value: Any, annotation: Any) -> None:
    spec = Spec("b.C", {"x": 1})
    assert coerce(value, annotation, make=lambda found: ("made", found)) == ("made", spec)
    assert coerce([value], list[annotation], make=lambda found: found.path) == ["b.C"]


def test_a_string_names_a_class_where_an_object_is_due() -> None:
    assert coerce("b.C", Fraction | None, make=lambda found: found) == Spec("b.C")
    assert coerce("b.C", Any, make=lambda found: found) == "b.C"


def test_an_error_stands_at_its_own_line() -> None:
    table = Table({"width": -1}, Place("x.yaml", 3), {"width": Place("x.yaml", 4)})
    with pytest.raises(ConfigError, match="^x.yaml:4: width must not"):
        coerce(table, Inner)
    with pytest.raises(ConfigError, match="^x.yaml:3: value.0 takes no 'x'"):
        coerce([Table({"x": 1}, Place("x.yaml", 3))], list[Inner])


@register("older_style")
def older_style(width: int = None) -> None:  # type: ignore[assignment] # noqa: RUF013
    """As code older than Optional writes it."""


def test_null_is_a_default_of_none() -> None:
    assert check(Spec("older_style", {"width": None})) == {"width": None}
    with pytest.raises(ConfigError, match="width must be an integer"):
        check(Spec("older_style", {"width": "x"}))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["class", "width", "words", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
plain = st.sampled_from(
    [int, float, bool, str, Path, None, Any, Spec, Inner, Literal["a", 1], Reads]
)
annotations = st.recursive(
    plain,
    lambda inner: (
        inner.map(lambda a: list[a])  # type: ignore[valid-type]
        | inner.map(lambda a: tuple[a, ...])  # type: ignore[valid-type]
        | inner.map(lambda a: dict[str, a])  # type: ignore[valid-type]
        | st.tuples(inner, inner).map(lambda pair: Union[pair])  # noqa: UP007
    ),
    max_leaves=4,
)


@given(values, annotations)
@settings(max_examples=50)
def test_any_value_fits_or_is_an_lmkit_error_and_fits_again(value: Any, annotation: Any) -> None:
    said = ""
    try:
        found = coerce(value, annotation, HERE, "key")
        assert repr(coerce(found, annotation, HERE, "key")) == repr(found)
    except LMKitError as error:
        said = str(error)
    assert not said or said.startswith("x.yaml:7: ")
