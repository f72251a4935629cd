"""A manifest notices every change, and reads nothing outside its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.checkpoints import record
from lmkit.checkpoints.durable import sha256_of
from lmkit.checkpoints.manifest import MANIFEST, Manifest, read_json, regular_file
from lmkit.errors import CheckpointError

SHA = "0" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "checkpoint"
    (place / "sub").mkdir(parents=True)
    (place / "a.bin").write_bytes(bytes(range(200)))
    (place / "sub" / "b.json").write_text('{"b": 1}')
    Manifest.write(place)
    return place


def test_what_was_written_is_good(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert sorted(manifest.files) == ["a.bin", "sub/b.json"]
    manifest.check()


@given(at=st.integers(0, 199), bit=st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_any_bit_that_flips_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    place = tmp_path_factory.mktemp("flip")
    content = bytearray(range(200))
    (place / "a.bin").write_bytes(content)
    Manifest.write(place)
    content[at] ^= 1 << bit
    (place / "a.bin").write_bytes(content)
    manifest = Manifest.read(place)
    manifest.check(hashes=False)
    manifest.check(skip=["a.bin"])
    with pytest.raises(CheckpointError, match=r"a\.bin is altered"):
        manifest.check()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: os.truncate(path, 0), "has 0 bytes, not 8"),
        (lambda path: os.truncate(path, 7), "has 7 bytes, not 8"),
        (lambda path: path.write_text("x" * 9), "has 9 bytes, not 8"),
        (lambda path: (path.unlink(), path.mkdir()), "is no file"),
        (lambda path: (path.unlink(), path.symlink_to("../a.bin")), "is a link"),
    ],
)
def test_sizes_and_kinds_are_noticed_without_reading(
    folder: Path, damage: Callable[[Path], Any], said: str
) -> None:
    damage(folder / "sub" / "b.json")
    with pytest.raises(CheckpointError, match=f"sub/b.json {said}"):
        Manifest.read(folder).check(hashes=False)


def test_a_folder_that_is_a_link_is_noticed(folder: Path, tmp_path: Path) -> None:
    (folder / "sub").rename(tmp_path / "outside")
    (folder / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match="is a link"):
        Manifest.read(folder).check()


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "", ".", "..", "a\\..\\x", "./../x"]
)
def test_names_outside_the_folder_are_refused_unread(folder: Path, name: str) -> None:
    content = {"format": 1, "files": {name: {"size": 1, "sha256": SHA}}}
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="outside the folder"):
        Manifest.read(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"format": 1}',
        b'{"format": 1, "files": []}',
        b'{"format": 1, "files": {"a": 3}}',
        b'{"format": 1, "files": {"a": {"size": "1", "sha256": ""}}}',
        b'{"format": 1, "files": {"a": {"size": true, "sha256": ""}}}',
        b'{"format": 1, "files": {"a": {"size": 1, "sha256": "zz"}}}',
        b'{"format": 3, "files": {}}',
        b"[" * 100_000,
        b" " * (17 << 20) + b"{}",
    ],
)
def test_what_is_no_manifest_is_a_checkpoint_error(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=str(folder)):
        Manifest.read(folder)


def test_a_later_format_is_named(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"format": 3, "files": {}}')
    with pytest.raises(CheckpointError, match="format 3 is not 2.*install the lmkit that wrote it"):
        Manifest.read(folder)


def test_the_format_before_is_read_by_its_own_rule(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "BLOCK", 64)  # a.bin has four blocks
    plain = {
        name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in {
            "a.bin": folder / "a.bin",
            "sub/b.json": folder / "sub" / "b.json",
        }.items()
    }
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "files": plain}))
    Manifest.read(folder).check()
    (folder / MANIFEST).write_text(json.dumps({"format": 2, "files": plain}))
    with pytest.raises(CheckpointError, match=r"a\.bin is altered"):
        Manifest.read(folder).check()


def test_a_name_no_file_system_knows_is_missing(folder: Path) -> None:
    for name in ("a\0b", "x" * 300):
        with pytest.raises(CheckpointError, match="is missing"):
            regular_file(folder, name)


def test_json_that_is_cut_is_damaged(folder: Path) -> None:
    assert read_json(folder, "sub/b.json") == {"b": 1}
    (folder / "sub" / "b.json").write_text('{"b": ')
    with pytest.raises(CheckpointError, match=r"sub/b\.json is damaged"):
        read_json(folder, "sub/b.json")
