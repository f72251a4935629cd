"""errors: one line, the right exit code, and the neighbour's name."""

from __future__ import annotations

import pickle

import pytest

from lmkit.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DistributedError,
    LMKitError,
    ModelError,
    NumericError,
    PluginError,
    Stopped,
    StorageError,
    TokenizerError,
    did_you_mean,
)


@pytest.mark.parametrize(
    ("keywords", "line"),
    [
        ({}, "it broke"),
        ({"hint": "mend it"}, "it broke; mend it"),
        ({"at": "x.yaml:7"}, "x.yaml:7: it broke"),
        ({"at": "x.yaml:7", "hint": "mend it"}, "x.yaml:7: it broke; mend it"),
        ({"at": ""}, "it broke"),
    ],
)
def test_an_error_is_one_line(keywords: dict[str, str], line: str) -> None:
    assert str(LMKitError("it broke", **keywords)) == line


def test_exit_codes() -> None:
    codes = {
        kind: kind("x").exit_code
        for kind in (ConfigError, DataError, TokenizerError, ModelError, CheckpointError)
    }
    assert codes == {ConfigError: 2, DataError: 2, TokenizerError: 2, ModelError: 2} | {
        CheckpointError: 3
    }
    assert NumericError("x").exit_code == 4
    assert DistributedError("x").exit_code == 5
    assert StorageError("x").exit_code == 74
    assert Stopped(exit_code=143).exit_code == 143


def test_errors_survive_the_way_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(PluginError("x", hint="y", at="z", traceback="stack")))
    assert (str(error), error.traceback) == ("z: x; y", "stack")
    assert pickle.loads(pickle.dumps(Stopped(exit_code=143))).exit_code == 143


def test_did_you_mean() -> None:
    assert did_you_mean("widht", ["width", "depth"]) == "did you mean 'width'?"
    assert did_you_mean("gpt", ["GPT"]) == "did you mean 'GPT'?"
    assert did_you_mean("zebra", ["width", "depth"]) == ""
    assert did_you_mean("x", []) == ""
