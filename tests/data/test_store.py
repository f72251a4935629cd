from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from lmkit.data import TokenStore
from lmkit.errors import DataError, StorageError


@pytest.fixture
def store(store_of: Callable[..., TokenStore]) -> TokenStore:
    return store_of([{"prompt": "abc", "truth": "def"}, {"prompt": "gh", "truth": "ij"}])


def test_any_stretch_of_a_document_can_be_read(store: TokenStore) -> None:
    assert bytes(store.tokens(1, 1, 3).tolist()) == b"hi"
    assert store.tokens(1, 0, 5).dtype == "uint16"
    assert store.mask(1, 1, 3).tolist() == [True, True]


def test_tokens_cannot_be_written_by_mistake(store: TokenStore) -> None:
    with pytest.raises(ValueError, match="read-only"):
        store.tokens(0, 0, 2)[0] = 1


@pytest.mark.parametrize("name", ["tokens.bin", "mask.bin", "lengths.bin", "starts.bin"])
def test_a_cut_or_missing_file_is_found_when_the_store_is_opened(
    store: TokenStore, name: str
) -> None:
    path = store.folder / name
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(DataError, match=f"{name}: has {size - 1} bytes, expected {size}; delete"):
        TokenStore(store.folder)
    path.unlink()
    with pytest.raises(DataError, match=f"{name}: cannot be read: No such file.*delete"):
        TokenStore(store.folder)


def test_a_file_cut_while_it_is_read_is_an_error_and_no_crash(store: TokenStore) -> None:
    store.check()
    os.truncate(store.folder / "tokens.bin", 4)
    with pytest.raises(StorageError, match=r"tokens.bin: cut from 24 to 4 bytes") as caught:
        store.check()
    assert caught.value.exit_code == 74


def test_one_flipped_bit_is_found_by_verify(store: TokenStore) -> None:
    store.verify()
    for name in ("tokens.bin", "mask.bin", "lengths.bin"):
        path = store.folder / name
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(DataError, match=f"{name}: altered: its sha256 is not"):
            TokenStore(store.folder).verify()
        path.write_bytes(whole)


def test_an_index_that_cannot_be_read(store: TokenStore) -> None:
    path = store.folder / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "format": 99}))
    with pytest.raises(DataError, match="its format is 99, this version reads"):
        TokenStore(store.folder)
    for broken in ("{", "[]", "{}"):
        path.write_text(broken)
        with pytest.raises(DataError, match="no readable index of tokens; delete"):
            TokenStore(store.folder)
