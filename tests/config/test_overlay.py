"""overlay: what lies on top wins, and drops what it excludes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmkit.config.loader import apply_overrides, read_yaml
from lmkit.config.spec import Table
from lmkit.errors import ConfigError

BASE = """
model: {class: a.B, depth: 4}
bare: a.B
tokens: 5
stages:
  - {name: first, tokens: 2M, batch_tokens: 100, data: {class: d.E, path: x, tokens: 3}}
  - {name: second, epochs: 1}
samples: [a, b]
"""


def laid_over(folder: Path, top: str) -> Table:
    (folder / "base.yaml").write_text(BASE)
    (folder / "x.yaml").write_text("extends: base.yaml\n" + top)
    return read_yaml(folder / "x.yaml")


def overridden(folder: Path, *overrides: str) -> Table:
    (folder / "base.yaml").write_text(BASE)
    table = read_yaml(folder / "base.yaml")
    apply_overrides(table, overrides)
    return table


@pytest.mark.parametrize(
    ("top", "key", "value"),
    [
        ("model: {depth: 2}", "model", {"class": "a.B", "depth": 2}),
        ("model: {class: a.B, width: 2}", "model", {"class": "a.B", "depth": 4, "width": 2}),
        ("model: {class: c.D}", "model", {"class": "c.D"}),
        ("model: c.D", "model", "c.D"),
        ("bare: {class: a.B, x: 1}", "bare", {"class": "a.B", "x": 1}),
        ("samples: [c]", "samples", ["c"]),
        ("new: {x: 1}", "new", {"x": 1}),
    ],
)
def test_extends_merges_mappings_and_replaces_the_rest(
    tmp_path: Path, top: str, key: str, value: Any
) -> None:
    assert laid_over(tmp_path, top)[key] == value


def test_stages_merge_by_name(tmp_path: Path) -> None:
    stages = laid_over(
        tmp_path, "stages:\n  - {name: third, steps: 1}\n  - {name: first, steps: 7}\n"
    )["stages"]
    assert [stage["name"] for stage in stages] == ["first", "second", "third"]
    assert stages[0]["steps"] == 7
    assert "tokens" not in stages[0]
    assert stages[0]["data"]["tokens"] == 3
    assert stages[0]["batch_tokens"] == 100


def test_two_lengths_in_one_file_are_left_to_be_refused(tmp_path: Path) -> None:
    stage = laid_over(tmp_path, "stages: [{name: first, steps: 7, epochs: 1}]")["stages"][0]
    assert (stage["steps"], stage["epochs"]) == (7, 1)


def test_stages_of_one_name_are_not_merged_into_each_other(tmp_path: Path) -> None:
    stages = laid_over(tmp_path, "stages: [{name: first}, {name: first}]")["stages"]
    assert len(stages) == 2


@pytest.mark.parametrize(
    ("overrides", "path", "value"),
    [
        (["model.depth=2"], ["model"], {"class": "a.B", "depth": 2}),
        (["model.rates.a=1e-4"], ["model", "rates"], {"a": 1e-4}),
        (["model.class=c.D"], ["model"], {"class": "c.D"}),
        (["model.class=a.B"], ["model"], {"class": "a.B", "depth": 4}),
        (["model=c.D"], ["model"], "c.D"),
        (["model.depth=7", "model.class=c.D"], ["model"], {"class": "c.D", "depth": 7}),
        (["model.depth=7", "model=c.D"], ["model"], {"class": "c.D", "depth": 7}),
        (["model.class=c.D", "model={x: 1}"], ["model"], {"class": "c.D"}),
        (["bare.x=1"], ["bare"], {"class": "a.B", "x": 1}),
        (["samples.1=c"], ["samples"], ["a", "c"]),
        (["samples=[]"], ["samples"], []),
        (["tokens="], ["tokens"], None),
        (["stages.second.epochs=2", "stages.second.epochs=3"], ["stages", 1, "epochs"], 3),
        (["stages.1.data.path=a=b"], ["stages", 1, "data"], {"path": "a=b"}),
    ],
)
def test_overrides(tmp_path: Path, overrides: list[str], path: list[Any], value: Any) -> None:
    found: Any = overridden(tmp_path, *overrides)
    for key in path:
        found = found[key]
    assert found == value


@pytest.mark.parametrize("stage", ["first", "0"])
def test_a_length_or_a_batch_replaces_the_other_kinds(tmp_path: Path, stage: str) -> None:
    table = overridden(tmp_path, f"stages.{stage}.steps=2", f"stages.{stage}.batch_size=3")
    first = table["stages"][0]
    assert {key: first.get(key) for key in ("steps", "tokens", "batch_size", "batch_tokens")} == {
        "steps": 2, "tokens": None, "batch_size": 3, "batch_tokens": None,
    }  # fmt: skip
    assert first["data"]["tokens"] == 3
    assert overridden(tmp_path, "steps=1")["tokens"] == 5
    assert str(first.places["steps"]) == f"override 'stages.{stage}.steps=2'"


def test_a_key_without_a_value_replaces_nothing(tmp_path: Path) -> None:
    for words in (["tokens=5", "steps="], ["steps=", "tokens=5"]):
        first = overridden(tmp_path, *(f"stages.0.{word}" for word in words))["stages"][0]
        assert (first["tokens"], first.get("steps")) == (5, None)
    first = laid_over(tmp_path, "stages: [{name: first, steps: , batch_size: null}]")["stages"][0]
    assert (first["tokens"], first["batch_tokens"]) == ("2M", 100)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.depth", "it sets nothing; write a.b=c"),
        ("=3", "it sets nothing"),
        ("model..depth=3", "it sets nothing"),
        ("stages.frist.steps=1", "stages has no 'frist'; did you mean 'first'?"),
        ("stages.7.steps=1", "stages has no '7'; it has first, second"),
        ("stages.2={name: x}", "stages has no '2'"),
        ("samples.-1=c", "samples has no '-1'; it has 2"),
        ("tokens.x=3", "tokens is 5, it has no parts"),
        ("model.depth=[1", "expected"),
        ("model.depth=!!python/none x", "the tag !!python/none"),
    ],
)
def test_overrides_that_lead_nowhere(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        overridden(tmp_path, override)
    assert str(caught.value).startswith(f"override {override!r}: ")
    assert said in str(caught.value)
