"""Vocabularies: those in the package, one's own, and those that cannot be had."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import requests
import tiktoken

from lmkit.errors import TokenizerError
from lmkit.text.bpe import read_ranks, write_ranks
from lmkit.text.encodings import CHAT_TOKENS, PACKAGED, VOCABULARIES, from_ranks, named
from lmkit.text.tokenizer import Tiktoken

BYTES = {bytes([byte]): byte for byte in range(256)}


def test_gpt2_is_the_file_that_tiktoken_expects() -> None:
    content = (VOCABULARIES / "gpt2.tiktoken").read_bytes()
    digest = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
    assert hashlib.sha256(content).hexdigest() == digest
    assert "MIT" in (VOCABULARIES / "NOTICE").read_text()


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_ranks_run_from_0_without_gaps(name: str) -> None:
    ranks = read_ranks(VOCABULARIES / f"{name}.tiktoken")
    assert sorted(ranks.values()) == list(range(len(ranks)))
    assert named(name) is named(name)  # opened once a process


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(TokenizerError, match="no vocabulary 'pyton4k'; did you mean 'python4k'"):
        Tiktoken("pyton4k")


@pytest.mark.parametrize("error", [requests.ConnectionError(), ValueError("Hash mismatch")])
def test_without_network_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(name: str) -> tiktoken.Encoding:
        raise error

    monkeypatch.setattr(tiktoken, "get_encoding", refuse)
    with pytest.raises(TokenizerError, match="'cl100k_base'.*TIKTOKEN_CACHE_DIR.*gpt2 or python4k"):
        Tiktoken("cl100k_base")


def test_ranks_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ranks({**BYTES, b"ab": 256}, tmp_path / "mine.tiktoken")
    tokenizer = Tiktoken(ranks="mine.tiktoken", folder=str(tmp_path))
    assert tokenizer.encode("abc") == [256, 99]
    assert (tokenizer.eos, tokenizer.vocab_size) == (257, 258)
    monkeypatch.chdir(tmp_path)
    assert Tiktoken(ranks="mine.tiktoken", folder="elsewhere").encode("ab") == [256]
    more = Tiktoken(ranks="mine.tiktoken", special_tokens={"<|user|>": 258})
    assert more.encode("<|user|>", allow_special=True) == [258]


def test_a_templates_tokens_follow_the_merges(tmp_path: Path) -> None:
    ranks = tmp_path / "mine.tiktoken"
    write_ranks({**BYTES, b"ab": 256}, ranks)
    talking = Tiktoken(ranks=ranks, chat="nanochat")
    assert talking.special_tokens == {name: 257 + i for i, name in enumerate(CHAT_TOKENS)}
    assert (talking.bos, talking.eos, talking.vocab_size) == (257, 257, 268)
    given = Tiktoken(ranks=ranks, special_tokens=talking.special_tokens)
    assert given.special_tokens == talking.special_tokens  # no end of text joins them
    assert given.fingerprint == talking.fingerprint
    chatml = Tiktoken(ranks=ranks, chat="chatml")
    assert chatml.special_tokens == {
        "<|endoftext|>": 257,
        "<|im_start|>": 258,
        "<|im_end|>": 259,
    }
    assert chatml.bos == 257


def test_a_templates_tokens_join_a_ready_vocabulary() -> None:
    gpt2 = Tiktoken("gpt2", chat="nanochat")
    assert gpt2.special_tokens["<|endoftext|>"] == 50256
    assert [gpt2.special_tokens[name] for name in CHAT_TOKENS] == list(range(50257, 50268))
    assert gpt2.bos == gpt2.eos == 50257
    some = Tiktoken("gpt2", special_tokens={"<|im_end|>": 50300}, chat="chatml")
    assert some.special_tokens["<|im_end|>"] == 50300
    assert some.special_tokens["<|im_start|>"] == 50301
    assert some.bos == 50256


def test_arguments_that_contradict_each_other() -> None:
    with pytest.raises(TokenizerError, match="not both"):
        Tiktoken("gpt2", ranks="x")
    with pytest.raises(TokenizerError, match="'pattern' belongs to 'ranks'"):
        Tiktoken(pattern="a")
    for bad in (5, 50256, -1, 2**40):
        with pytest.raises(TokenizerError, match="ids of their own.*first free one is 50257"):
            Tiktoken("gpt2", special_tokens={"<|user|>": bad})
    with pytest.raises(TokenizerError, match="cannot read the ranks file: No such file"):
        Tiktoken(ranks="nowhere.tiktoken")


def test_patterns_that_cannot_serve(tmp_path: Path) -> None:
    path = tmp_path / "mine.tiktoken"
    write_ranks(BYTES, path)
    with pytest.raises(TokenizerError, match="split pattern is wrong"):
        from_ranks(path, "(")
    with pytest.raises(TokenizerError, match="skips some characters"):
        from_ranks(path, r"\p{L}+")
    from_ranks(path, r"\p{L}+|[\s\S]")
