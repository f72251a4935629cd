from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lmkit.data import InMemory, TokenStore, prepare
from lmkit.text import Byte


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LMKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def store_of() -> Callable[..., TokenStore]:
    """All of a list of texts or prompts as a store of bytes."""

    def make(documents: list, max_len: int = 32, **options: object) -> TokenStore:
        source = InMemory(documents)
        return prepare(source, Byte(), "all", max_len=max_len, progress=False, **options)

    return make
