"""Whatever ends in Rust is a TokenizerError; what else goes wrong is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmkit.errors import TokenizerError
from lmkit.text.bpe import write_ranks
from lmkit.text.panic import told
from lmkit.text.tokenizer import Tiktoken


def test_a_pattern_that_takes_nothing_makes_tiktoken_panic(tmp_path: Path) -> None:
    write_ranks({bytes([n]): n for n in range(256)}, tmp_path / "r")
    with pytest.raises(TokenizerError, match="the split pattern cannot be used: .*out of range"):
        Tiktoken(ranks=tmp_path / "r", pattern="(?=a)")


def test_a_panic_while_encoding_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """No text is known to do it: long white space, which did, is cut."""
    tokenizer = Tiktoken("python4k")
    panic = type("PanicException", (BaseException,), {})

    def fail(*_: object, **__: object) -> None:
        raise panic("index out\nof range")

    for name in ("encode", "encode_ordinary", "encode_to_numpy"):
        monkeypatch.setattr(tokenizer.encoding, name, fail)
    for encode in (tokenizer.encode, tokenizer.encode_array):
        with pytest.raises(TokenizerError, match="gives up on this text: index out of range"):
            encode("a")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, OSError])
def test_anything_else_passes(error: type[BaseException]) -> None:
    with pytest.raises(error), told("it gives up"):
        raise error
