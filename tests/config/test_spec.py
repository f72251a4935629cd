"""spec: frozen all the way down, equal wherever it was written, and back to plain data."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from lmkit.config.spec import Place, Spec, Table, blame
from lmkit.errors import ConfigError, DataError

NESTED = {"class": "a.B", "x": [1, {"class": "c.D", "y": {"z": 2}}], "m": {"k": "v"}}


def test_a_string_and_a_mapping_name_a_class() -> None:
    assert Spec.of("a.B") == Spec.of({"class": "a.B"}) == Spec("a.B")
    ready = Spec("a.B", {"x": 1})
    assert Spec.of(ready) is ready


def test_nested_mappings_with_a_class_are_specs() -> None:
    spec = Spec.of(NESTED)
    assert spec.args["x"][1] == Spec("c.D", {"y": {"z": 2}})


def test_places_do_not_count_for_equality() -> None:
    table = Table({"class": "a.B", "x": 1}, Place("f.yaml", 3), {"x": Place("f.yaml", 4)})
    spec = Spec.of(table)
    assert spec == Spec("a.B", {"x": 1})
    assert (str(spec.at), str(spec.places["x"])) == ("f.yaml:3", "f.yaml:4")


def test_nobody_can_change_it() -> None:
    spec = Spec.of(NESTED)
    with pytest.raises(TypeError):
        spec.args["x"] = 3  # type: ignore[index]
    with pytest.raises(TypeError):
        spec.args["m"]["k"] = "w"
    assert isinstance(spec.args["x"], tuple)
    changed = spec.with_args(m=None, n=2)
    assert changed.args["n"] == 2
    assert changed.args["m"] is None
    assert "n" not in spec.args


def test_to_dict_is_plain_and_reads_back() -> None:
    spec = Spec.of(NESTED)
    assert spec.to_dict() == NESTED
    assert Spec.of(json.loads(json.dumps(spec.to_dict()))) == spec


def test_it_can_be_pickled_and_copied() -> None:
    spec = Spec.of(NESTED, Place("f.yaml", 3))
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec == copy.deepcopy(spec)
    assert again.at == spec.at


@pytest.mark.parametrize("value", [{}, {"x": 1}, {"class": 3}, {"class": ""}, {"class": None}, 3])
def test_what_names_no_class_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="here:5: .*module.Class"):
        Spec.of(value, Place("here", 5))


@pytest.mark.parametrize(
    ("path", "reader"),
    [
        ("text.txt", "TextFiles"),
        ("a/b.jsonl.gz", "JsonLines"),
        ("../data-*.parquet", "Parquet"),
    ],
)
def test_a_file_in_place_of_a_class(path: str, reader: str) -> None:
    for value in (path, {"class": path}):
        with pytest.raises(ConfigError) as caught:
            Spec.of(value, Place("f.yaml", 3))
        assert str(caught.value) == (
            f"f.yaml:3: {path!r} is a file, and a class is to be named here; "
            f"write {{class: lmkit.data.sources.{reader}, path: {path}}}"
        )


class TestBlame:
    AT, PLACES = Place("f.yaml", 3), {"steps": Place("f.yaml", 5)}

    def told(self, error: Exception) -> str:
        with (
            pytest.raises(type(error)) as caught,
            blame(Place("f.yaml", 1)),  # a wider one changes nothing
            blame(self.AT, self.PLACES),
        ):
            raise error
        return str(caught.value)

    def test_an_error_gets_the_line_of_its_key_or_of_the_whole(self) -> None:
        assert self.told(ConfigError("wrong", key="steps")) == "f.yaml:5: wrong"
        assert self.told(ConfigError("wrong", key="other")) == "f.yaml:3: wrong"
        assert self.told(DataError("wrong", hint="write")) == "f.yaml:3: wrong; write"

    def test_another_file_stays_beside_the_line(self) -> None:
        assert self.told(DataError("empty", at="text.txt")) == "f.yaml:3: text.txt: empty"

    def test_a_line_that_is_known_stays(self) -> None:
        assert self.told(ConfigError("wrong", at=Place("f.yaml", 9))) == "f.yaml:9: wrong"

    def test_what_was_written_in_python_has_no_line(self) -> None:
        with pytest.raises(DataError) as caught, blame(Place()):
            raise DataError("empty", at="text.txt")
        assert str(caught.value) == "text.txt: empty"
        with pytest.raises(ValueError, match="^other$"), blame(self.AT):
            raise ValueError("other")
