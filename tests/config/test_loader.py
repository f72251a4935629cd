"""loader: YAML with lines, without traps; every broken file is an error with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.config.loader import MAX_BYTES, apply_overrides, read_yaml
from lmkit.config.spec import Table
from lmkit.errors import ConfigError


def read(folder: Path, text: str | bytes, name: str = "x.yaml") -> Table:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(file)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3e-4", 3e-4), ("1e-4", 1e-4), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-2", -2),
        ("1_000_000", 1_000_000), ("2M", "2M"), ("0", 0), ("0.1", 0.1), ("+3", 3),
        ("true", True), ("no", False), ("On", True), ("y", "y"), ("~", None), ("", None),
        ("1:30", "1:30"), ("1:30.5", "1:30.5"), ("2024-01-01", "2024-01-01"), ("0x1F", "0x1F"),
        ("0b11", "0b11"), (".inf", ".inf"), (".nan", ".nan"), ("'010'", "010"), ("=", "="),
        ("!!str 5", "5"), ("'3e-4'", "3e-4"), ("[1, a]", [1, "a"]), ("{a: 1}", {"a": 1}),
        ("1.2.3", "1.2.3"), ("-", None), ('"<<"', "<<"),
    ],
)  # fmt: skip
def test_scalars(tmp_path: Path, written: str, value: Any) -> None:
    if written == "-":
        value = [None]
    found = read(tmp_path, f"key:\n  {written}\n")["key"]
    assert found == value
    assert type(found) is type(value) or isinstance(found, Table)


def test_keys_are_words_and_know_their_lines(tmp_path: Path) -> None:
    table = read(tmp_path, "no: 1\n1: 2\nmodel:\n  depth: 3\n  list:\n    - {a: 1}\n")
    assert list(table) == ["no", "1", "model"]
    model = table["model"]
    file = tmp_path / "x.yaml"
    assert str(table.places["1"]) == f"{file}:2"
    assert str(model.places["depth"]) == f"{file}:4"
    assert str(model["list"][0].at) == f"{file}:6"


def test_merge_keys(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 4}\n"
        "one:\n  <<: *base\n  a: 9\nboth:\n  <<: [*base, *more]\n",
    )
    assert table["one"] == {"a": 9, "b": 2}
    assert table["both"] == {"a": 1, "b": 2, "c": 4}
    assert table["one"].places["b"].line == 1


def test_aliases_do_not_share_what_they_repeat(tmp_path: Path) -> None:
    table = read(tmp_path, "a: &x {k: 1}\nb: *x\n")
    apply_overrides(table, ["a.k=2"])
    assert (table["a"], table["b"]) == ({"k": 2}, {"k": 1})


LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", None, "the file is empty"),
        ("# only a comment\n", None, "the file is empty"),
        ("- a\n- b\n", None, "must be a mapping, not a list"),
        ("hello\n", None, "must be a mapping, not a str"),
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' comes twice; it stands in line 1 already"),
        ("m:\n  a: 1\n  a: 1\n", 3, "the key 'a' comes twice"),
        ("a: 1\n\tb: 2\n", 2, "indent with spaces"),
        ("a: [1, 2\nb: 3\n", 2, "expected"),
        ("a: 'open\n", 2, "end of stream"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: *nothing\n", 1, "undefined alias"),
        ("a: &a [*a]\n", 1, "inside itself"),
        ("a: &a {b: *a}\n", 1, "inside itself"),
        ("a: &a [*a, *a]\n", 1, "inside itself"),
        ("a: " + "[" * 5000, 1, "nested too deeply"),
        ("a: " + "{a: " * 500, 1, "nested too deeply"),
        ("a:\n" + "".join(" " * i + "- \n" for i in range(1, 100)), None, "nested too deeply"),
        (LAUGHS, None, "aliases unfold to more than"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "the tag !!python/object/apply"),
        ("a: !!python/name:os.system x\n", 1, "is not read; name a class with {class"),
        ("a: !mine {b: 1}\n", 1, "the tag !mine is not read"),
        ("a: !!set {b, c}\n", 1, "the tag !!set"),
        ("a: !!binary aGk=\n", 1, "the tag !!binary"),
        ("a: !!float x\n", 1, "is no number"),
        ("a: !!float 2M\n", 1, "is no number"),
        ("a: !!bool 3\n", 1, "is not true or false"),
        ("a: 010\n", 1, "octal to some readers of YAML; write 10, or '010' for text"),
        ("a: 1e999\n", 1, "too large"),
        (f"a: {'9' * 5000}\n", 1, "is no number that can be kept"),
        ("? [a]\n: 1\n", 1, "a key must be a plain word"),
        ("<<: 3\n", 1, "'<<' merges mappings only"),
        ('a: "\\0"\n', 1, "NUL"),
        ('a: "\\ud800"\n', 1, "surrogate"),
        ('a: "\\UFFFFFFFF"\n', None, "names no character"),
        (b"a: 1\nb: \xff\xfe\n", 2, "not UTF-8"),
        (b"a: 1\n\nb: \x00\n", 3, "U+0000"),
        (b"\x7fELF\x02\x01\x01\x00", 1, "U+007F"),
        ("a: 1\n" * 1 + "#" * MAX_BYTES, None, "no experiment"),
        ("%YAML 9.9\n---\na: 1\n", 1, ""),
        ("extends: [a]\n", 1, "'extends' must name one file"),
        ("extends: x.yaml\n", 1, "extends itself"),
        ("a: 1\nextends: y.yaml\n", 2, "there is no file"),
    ],
)
def test_broken_files(tmp_path: Path, text: str | bytes, line: int | None, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    place = f"{tmp_path / 'x.yaml'}" + (f":{line}: " if line else "")
    assert str(caught.value).startswith(place)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match="no file .*; did you mean 'quickstart.yaml'"):
        read_yaml(tmp_path / "quickstrat.yaml")
    with pytest.raises(ConfigError, match="is not a file"):
        read_yaml(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / ("x" * 5000))


def test_a_byte_order_mark_and_other_line_ends(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: 2\r\n") == {"a": 1, "b": 2}


def test_extends(tmp_path: Path) -> None:
    read(tmp_path, "a: {x: 1, y: 2}\nb: 3\n", "base.yaml")
    (tmp_path / "sub").mkdir()
    read(tmp_path, "extends: base.yaml\nb: 4\n", "middle.yaml")
    table = read(tmp_path / "sub", "extends: ../middle.yaml\na: {y: 5}\n")
    assert table == {"a": {"x": 1, "y": 5}, "b": 4}
    assert str(table["a"].places["x"]) == f"{tmp_path / 'base.yaml'}:1"
    assert str(table["a"].places["y"]) == f"{tmp_path / 'sub' / 'x.yaml'}:2"


def test_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "y.yaml").write_text("extends: x.yaml\n")
    with pytest.raises(ConfigError, match=r"y.yaml:1: .*x.yaml extends itself"):
        read(tmp_path, "extends: y.yaml\n")


scalars = (
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abn01:-e. '", max_size=6)
)
data = st.dictionaries(
    st.text("abc01", min_size=1, max_size=3),
    st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner), max_leaves=8
    ),
    min_size=1,
)


@given(data)
@settings(max_examples=50, deadline=None)
def test_json_is_read_as_json(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    assert read(tmp_path_factory.mktemp("j"), json.dumps(data)) == data


LINES = st.lists(
    st.sampled_from(
        ["a: 1", "b: *x", "  c: &x [1, 2]", "- d", "<<: *x", "extends: q", "{", "]", "'", "\t", "|"]
        + ["? k", ": v", "!!python/none x", "---", "...", "%TAG ! x", "a: !!int x", "&x", "é", "\0"]
    )
    | st.text(max_size=8),
    max_size=6,
).map("\n".join)


@given(LINES | st.binary(max_size=40))
@settings(max_examples=50, deadline=None)
def test_any_file_is_a_table_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, text: str | bytes
) -> None:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    said = ""
    try:
        json.dumps(read(tmp_path_factory.mktemp("f"), raw), allow_nan=False).encode()
    except ConfigError as error:
        said = str(error)
    assert not said or "x.yaml" in said
