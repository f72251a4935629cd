from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lmkit.config import build
from lmkit.data import InMemory, TokenShards, TokenStore, prepare
from lmkit.data import shards as shards_module
from lmkit.errors import DataError
from lmkit.text import Byte, Tiktoken, Tokenizer

END = 256


class TwoMarks(Byte):
    """bos 257 and eos 256 differ."""

    bos = 257

    def vocabulary(self) -> list[bytes]:
        return [*super().vocabulary(), b"<bos>"]


def write(path: Path, ids: list[int], dtype: str = "uint16", head: bytes = b"") -> Path:
    path.write_bytes(head + np.array(ids, dtype).tobytes())
    return path


def opened(path: object, split: str = "train", tokenizer: Tokenizer | None = None, **options):
    source = TokenShards(path, **options)
    return prepare(source, tokenizer or Byte(), split, max_len=8, progress=False)


def documents(store: TokenStore) -> list[list[int]]:
    lengths = store.lengths.tolist()
    return [store.tokens(number, 0, length).tolist() for number, length in enumerate(lengths)]


def test_documents_lie_between_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.bin", [END, 1, 2, END, END, 3, END, 4, 5, 6])
    for scanned in (100, 3, 1):
        monkeypatch.setattr(shards_module, "_SCANNED", scanned)
        monkeypatch.setenv("LMKIT_CACHE", str(tmp_path / f"cache {scanned}"))
        store = opened(str(path))
        assert documents(store) == [[1, 2], [3], [4, 5, 6]]
        assert store.token_count == 6


def test_an_eos_belongs_to_its_document(tmp_path: Path) -> None:
    path = write(tmp_path / "x.bin", [257, 1, 2, 256, 257, 3, 256, 4, 256, 257])
    assert documents(opened(str(path), tokenizer=TwoMarks())) == [[1, 2, 256], [3, 256], [4, 256]]


def test_several_files_are_read_in_order_where_they_lie(tmp_path: Path, cache: Path) -> None:
    for number in range(3):
        write(tmp_path / f"train_{number}.bin", [number, END, 10 + number, 20])
    store = opened(f"{tmp_path}/train_*.bin")
    wanted = [[0], [10, 20], [1], [11, 20], [2], [12, 20]]
    assert documents(store) == wanted
    assert not list(cache.rglob("tokens.bin"))
    assert documents(opened(f"{tmp_path}/train_*.bin")) == wanted


def test_wide_ids_and_headers(tmp_path: Path) -> None:
    wide = write(tmp_path / "wide.bin", [1, 50255], "uint32")
    gpt2 = Tiktoken("gpt2")
    assert documents(opened(str(wide), tokenizer=gpt2, dtype="uint32")) == [[1, 50255]]
    head = np.zeros(256, np.int32)
    head[:3] = 20240520, 1, 3
    headed = write(tmp_path / "headed.bin", [1, 2, 3], head=head.tobytes())
    assert documents(opened(str(headed))) == [[1, 2, 3]]
    write(headed, [1, 2], head=head.tobytes())
    with pytest.raises(DataError, match=r"headed.bin: has 1,028 bytes, expected 1,030"):
        opened(str(headed))


def test_validation_is_named_and_empty_if_not(tmp_path: Path) -> None:
    train = write(tmp_path / "train.bin", [1, 2])
    write(tmp_path / "val.bin", [3])
    assert opened(str(train), "validation").token_count == 0
    spec = {"class": "lmkit.data.shards.TokenShards", "path": "train.bin", "validation": "val.bin"}
    source = build(spec, folder=str(tmp_path))
    for split, wanted in {"train": [[1, 2]], "validation": [[3]], "all": [[1, 2], [3]]}.items():
        assert documents(prepare(source, Byte(), split, max_len=8)) == wanted
    assert source.available()
    assert source.describe() == "TokenShards: 1 files, about 0.0 M tokens"


@pytest.mark.parametrize("at", [0, 5, 99])
def test_an_id_that_the_tokenizer_has_not_is_named(
    tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_SCANNED", 10)
    ids = [1] * 100
    ids[at] = 257
    path = write(tmp_path / "x.bin", ids)
    with pytest.raises(DataError, match=f"x.bin: token {at} is 257; the vocabulary has 257"):
        opened(str(path))


def test_empty_and_odd_files(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.touch()
    with pytest.raises(DataError, match=r"x.bin: the file is empty"):
        opened(str(path))
    path.write_bytes(b"abc")
    with pytest.raises(DataError, match=r"x.bin: 3 bytes are no whole number of uint16 ids"):
        opened(str(path))


def test_a_missing_shard_is_missed(tmp_path: Path) -> None:
    for number in (1, 2, 5):
        write(tmp_path / f"fineweb_{number:06}.bin", [1])
    with pytest.raises(DataError, match="2 shards are missing between 1 and 5: 3, 4; get them"):
        opened(str(tmp_path))


def test_changed_content_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "x.bin", [1, 2])
    before = TokenShards(str(path)).fingerprint()
    opened(str(path))
    write(path, [1, 3])
    assert TokenShards(str(path)).fingerprint() != before
    assert documents(opened(str(path))) == [[1, 3]]


def test_a_folder_that_lmkit_made(tmp_path: Path) -> None:
    made = prepare(InMemory(["abc", "de"]), Byte(), "all", max_len=8, cache=tmp_path / "moved")
    assert documents(opened(str(made.folder))) == [[97, 98, 99], [100, 101]]
    with pytest.raises(DataError, match="these ids come from another tokenizer"):
        opened(str(made.folder), tokenizer=Tiktoken("gpt2"))


def test_they_hold_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "x.bin", [1])
    with pytest.raises(DataError, match="hold token ids; there is no text"):
        TokenShards(str(path)).documents("train")
