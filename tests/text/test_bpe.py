"""Training a vocabulary: repeatable, lossless, honest about bad files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lmkit.errors import TokenizerError
from lmkit.text.bpe import read_ranks, train, write_ranks

TEXTS = ["def f(x):\n        return x\n" * 20, "def g(y):\n        return y\n" * 20]


def test_training_learns_the_commonest_pairs_first_and_is_repeatable() -> None:
    ranks = train(["abab" * 50 + " " + "xy" * 3], 258)
    assert len(ranks) == 258
    assert ranks[b"ab"] == 256
    assert train(TEXTS, 300) == train(TEXTS, 300)


def test_runs_of_spaces_and_line_ends_become_tokens() -> None:
    ranks = train(TEXTS, 320)
    assert b"       " in ranks  # the last space of the indent goes with the word
    assert b"):\n" in ranks
    assert b" return" in ranks
    assert b"):\n       " not in ranks  # no merge crosses a split


def test_training_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TokenizerError, match="255 cannot hold the 256 bytes"):
        train(TEXTS, 255)
    with pytest.raises(TokenizerError, match="split pattern"):
        train(TEXTS, 300, pattern="(")
    monkeypatch.setitem(sys.modules, "rustbpe", None)
    with pytest.raises(TokenizerError, match=r"needs rustbpe; pip install 'lmkit\[bpe\]'"):
        train(TEXTS, 300)


def test_written_and_read_ranks_are_equal(tmp_path: Path) -> None:
    ranks = train(TEXTS, 300)
    write_ranks(ranks, tmp_path / "r")
    assert read_ranks(tmp_path / "r") == ranks
    assert list(read_ranks(tmp_path / "r").values()) == sorted(ranks.values())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"IQ", "r:258: not a token in base64"),
        (b"IQ== 1 2", "r:258: not a token in base64"),
        (b"I!Q= 300", "r:258: not a token in base64"),
        (b"YWI= -1", "r:258: not a token in base64"),
        (b"", "r:258: not a token in base64"),
        (b"YWE= 256", "a token or a rank comes twice"),
        (b"YWI= 300", "a token or a rank comes twice"),
        (b"YWE= 9999999999", "258 tokens have ranks up to 9999999999"),
    ],
)
def test_corrupt_lines_are_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "r"
    write_ranks({**{bytes([byte]): byte for byte in range(256)}, b"ab": 256}, path)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(TokenizerError, match=message):
        read_ranks(path)


@pytest.mark.parametrize("content", [b"", b"IQ== 0\n"])
def test_a_cut_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(
        TokenizerError, match="of the 256 single bytes have no rank, the first is 0"
    ):
        read_ranks(tmp_path / "r")
