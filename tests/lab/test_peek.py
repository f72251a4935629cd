"""The beginning of a source stands for all of it, and says how much of it that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmkit.data import InMemory, JsonLines, MixedStores, Mixture, TextFiles, TokenShards, prepare
from lmkit.data.mixture import Share
from lmkit.lab import peek as peek_module
from lmkit.lab.peek import Peek, peek
from lmkit.text import Byte, Tokenizer

OPTIONS = {"include_prompts": True, "max_len": 16}


@pytest.fixture(autouse=True)
def _little_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peek_module, "ENOUGH", 1000)
    monkeypatch.setenv("LMKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def large(tmp_path: Path) -> TextFiles:
    """100 files of 120 bytes, in 110 characters."""
    (tmp_path / "text").mkdir()
    for number in range(100):
        (tmp_path / "text" / f"{number:03}.txt").write_text("abcdefghié" * 10 + "." * 10)
    return TextFiles(str(tmp_path / "text"), holdout=0.0)


def look(source: object, tmp_path: Path, tokenizer: Tokenizer | None = None) -> Peek:
    return peek(source, tokenizer or Byte(), cache=tmp_path / "look", **OPTIONS)  # type: ignore


def test_a_large_source_is_estimated(large: TextFiles, tmp_path: Path) -> None:
    seen = look(large, tmp_path)
    assert seen.store.document_count == 10  # the tenth is cut after ten characters
    assert seen.share == (9 * 120 + 11) / (100 * 120)
    assert seen.tokens == 100 * 120
    assert not (tmp_path / "cache").exists(), "the user's cache is left alone"


def test_a_document_that_is_long_is_cut(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a" * 5000)
    seen = look(TextFiles(str(tmp_path / "one.txt"), holdout=0.0), tmp_path)
    assert seen.store.token_count == 1000
    assert seen.share == pytest.approx(0.2)


def test_a_small_source_is_counted(tmp_path: Path) -> None:
    source = InMemory(["one", "two", {"text": "three"}], holdout=0.0)
    seen = look(source, tmp_path)
    assert (seen.share, seen.tokens) == (1.0, 3 + 3 + 5)
    assert seen.store.about == source.describe()


def test_what_was_prepared_is_taken(large: TextFiles, tmp_path: Path) -> None:
    whole = prepare(large, Byte(), "train", **OPTIONS, progress=False)
    seen = look(large, tmp_path)
    assert (seen.share, seen.tokens) == (1.0, whole.token_count)


def test_a_source_that_does_not_tell_its_size(tmp_path: Path) -> None:
    import gzip

    line = b'{"prompt": "aaaaaaaaaa", "truth": "b"}\n'
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(line * 500))
    seen = look(JsonLines(str(tmp_path / "x.jsonl.gz"), holdout=0.0), tmp_path)
    assert (seen.share, seen.tokens) == (None, None)
    assert seen.store.prompts
    assert seen.store.document_count == 91  # 1000 characters of prompt and truth


def test_shards_have_nothing_to_tokenise(tmp_path: Path) -> None:
    import numpy as np

    np.arange(5000, dtype=np.uint16).__mod__(256).tofile(tmp_path / "x.bin")
    seen = look(TokenShards(str(tmp_path / "x.bin")), tmp_path)
    assert (seen.share, seen.tokens) == (1.0, 5000)


def test_a_mixture(large: TextFiles, tmp_path: Path) -> None:
    small = InMemory(["x" * 120], holdout=0.0)
    seen = look(Mixture([Share(large, 3.0), Share(small, 1.0)]), tmp_path)
    assert isinstance(seen.store, MixedStores)
    assert seen.store.weights == [3.0, 1.0]
    assert seen.tokens == 100 * 120 + 120


def test_a_source_without_training_text(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a")
    seen = look(TextFiles(str(tmp_path / "x.txt"), holdout=0.5), tmp_path)
    assert seen.store.token_count == 0
