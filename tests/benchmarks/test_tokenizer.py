"""The benchmark of tokenizers, tiny."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.tokenizer import stdlib_texts


@pytest.mark.usefixtures("in_turn")
def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tokenizer.json"
    assert main(["tokenizer", "--smoke", "--json", str(file)]) == 0
    assert "lmkit, to shards" in capsys.readouterr().out
    rows = json.loads(file.read_text())["rows"]
    rows = [row for row in rows if row["setting"].startswith("python4k")]
    assert [row["contestant"] for row in rows] == 2 * ["lmkit, to shards", "tiktoken, to lists"]
    assert all(row["MB/s"] > 0 and row["x the last"] > 0 for row in rows)


def test_documents_are_cut_and_nothing_is_lost() -> None:
    whole, short = stdlib_texts(None, 30_000), stdlib_texts(100, 30_000)
    assert "".join(short) == "".join(whole)
    assert len("".join(whole[:-1])) < 30_000 <= len("".join(whole))
    assert max(map(len, short)) == 100


def test_hugging_face_learns_as_many_entries() -> None:
    pytest.importorskip("tokenizers")
    from benchmarks.peers.huggingface import Merges

    learned = Merges(400, 20_000).learn()
    assert learned.get_vocab_size() == 400
