"""Laws every tokenizer keeps, and what each of them refuses."""

from __future__ import annotations

import argparse
import copy
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.errors import ConfigError, TokenizerError
from lmkit.text.bpe import write_ranks
from lmkit.text.encodings import BOS, CHAT_TOKENS
from lmkit.text.tokenizer import Byte, Tiktoken, Tokenizer, load_tokenizer

END = "<|endoftext|>"
TOKENIZERS = [Byte(), Tiktoken("gpt2"), Tiktoken("python4k"), Tiktoken("python4k", chat="nanochat")]
each = pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["byte", "gpt2", "python4k", "chat"])

# text as hypothesis likes it, mixed with what split patterns and special tokens trip over
tricky = st.sampled_from([END, *CHAT_TOKENS, "  ", "\n\n", "\r\n\t", "'LL", "１２", "🙂"])
texts = st.lists(st.one_of(st.text(max_size=20), tricky)).map("".join)


class Letters(Tokenizer):
    """The smallest tokenizer a user can write."""

    bos = eos = 0

    def __init__(self, letters: str = "ab") -> None:
        self.letters = letters
        self.special_tokens = {END: 0}

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        return [self.letters.index(letter) + 1 for letter in text]

    def vocabulary(self) -> list[bytes]:
        return [END.encode(), *(letter.encode() for letter in self.letters)]

    def settings(self) -> dict[str, str]:
        return {"letters": self.letters}


@each
@settings(max_examples=50, deadline=None)
@given(text=texts)
def test_text_survives_and_never_holds_special_tokens(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_array(text).tolist() == ids
    assert not set(ids) & set(tokenizer.special_tokens.values())
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())
    assert tokenizer.decode(tokenizer.encode(text, allow_special=True)) == text


@each
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_stream_gives_what_decode_gives(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    stream = tokenizer.stream_decoder()
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


def test_stream_gives_characters_whole() -> None:
    stream = Byte().stream_decoder()
    assert [stream.push(i) for i in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]
    assert stream.finish() == ""
    stream.push("é".encode()[0])
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


@each
def test_special_tokens_only_when_asked_for(tokenizer: Tokenizer) -> None:
    end = BOS if BOS in tokenizer.special_tokens else END
    assert tokenizer.encode(f"a{end}b", allow_special=True) == [
        *tokenizer.encode("a"),
        tokenizer.eos,
        *tokenizer.encode("b"),
    ]
    assert tokenizer.decode([tokenizer.eos]) == end
    assert tokenizer.token_bytes[tokenizer.eos] == 0
    assert tokenizer.token_bytes.dtype == np.int32
    assert len(tokenizer.token_bytes) == tokenizer.vocab_size


@each
def test_batch_equals_one_by_one(tokenizer: Tokenizer) -> None:
    batch = [f"{i} text, {END}\n" * (i % 5) for i in range(100)]
    expected = [tokenizer.encode(text) for text in batch]
    assert tokenizer.encode_batch(batch) == expected
    assert tokenizer.encode_batch(batch, threads=3) == expected
    assert tokenizer.encode_batch([]) == []


def test_an_encode_of_ones_own_is_asked_for_arrays_too() -> None:
    class Lower(Tiktoken):
        def encode(self, text: str, allow_special: bool = False) -> list[int]:
            return super().encode(text.lower(), allow_special)

    lower = Lower("gpt2")
    assert lower.encode_array("ABC").tolist() == lower.encode("ABC") != Tiktoken().encode("ABC")


@pytest.mark.parametrize("tokenizer", TOKENIZERS[:3], ids=["byte", "gpt2", "python4k"])
@pytest.mark.parametrize("unit", [" ", "\n", "\t", " \n", "a", "!", "1", "é"])
def test_very_long_runs(tokenizer: Tokenizer, unit: str) -> None:
    # tiktoken panics, with an exception that is no Exception, on 1,000,000 spaces before a letter
    text = unit * (1_000_000 if unit.isspace() else 50_000) + "x"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_array(text).tolist() == ids
    if unit == " ":
        assert tokenizer.decode(tokenizer.encode(text + END, allow_special=True)) == text + END


@each
def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="lone surrogate at character 4.*caf"):
        tokenizer.encode("café\ud800")
    with pytest.raises(TokenizerError, match="lone surrogate at character 4.*caf"):
        tokenizer.encode_array("café\ud800")
    with pytest.raises(TokenizerError, match="lone surrogate"):
        tokenizer.encode_batch(["fine", "\udcff"])


@each
@pytest.mark.parametrize("bad", [-1, 2**40])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer, bad: int) -> None:
    with pytest.raises(TokenizerError, match=f"{bad} is no id"):
        tokenizer.decode([1, bad])
    with pytest.raises(TokenizerError, match="is no id"):
        tokenizer.stream_decoder().push(tokenizer.vocab_size)


def test_known_ids_and_sizes() -> None:
    gpt2 = Tiktoken()
    assert gpt2.encode("hello world") == [31373, 995]  # from tiktoken's own docstring
    assert (gpt2.vocab_size, gpt2.bos, gpt2.eos) == (50257, 50256, 50256)
    assert (Tiktoken("python4k").vocab_size, Tiktoken("python4k").eos) == (4096, 4095)
    assert (Byte().vocab_size, Byte().encode("é")) == (257, [195, 169])


def test_python4k_is_shorter_on_python() -> None:
    source = inspect.getsource(argparse)
    assert len(Tiktoken("python4k").encode(source)) < 0.75 * len(Tiktoken("gpt2").encode(source))


@pytest.mark.parametrize("tokenizer", [*TOKENIZERS, Letters("xyz")], ids=lambda t: type(t).__name__)
def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.special_tokens == tokenizer.special_tokens
    assert loaded.encode("xyz") == tokenizer.encode("xyz")
    assert copy.deepcopy(loaded).encode("zx") == tokenizer.encode("zx")


def test_a_ready_encoding_is_wrapped_saved_and_loaded(tmp_path: Path) -> None:
    gpt2 = Tiktoken().encoding
    encoding = tiktoken.Encoding(
        "talk",
        pat_str=gpt2._pat_str,
        mergeable_ranks=gpt2._mergeable_ranks,
        special_tokens={END: 50256, "<|user|>": 50300},
    )
    tokenizer = Tiktoken.of(encoding)
    assert tokenizer.vocab_size == 50301
    assert tokenizer.decode([50299]) == ""  # a gap
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode("<|user|>a", allow_special=True) == [50300, 64]
    assert loaded.fingerprint == tokenizer.fingerprint != Tiktoken().fingerprint


def test_an_encoding_without_an_end_mark_is_refused() -> None:
    gpt2 = Tiktoken().encoding
    bare = tiktoken.Encoding(
        "bare", pat_str=gpt2._pat_str, mergeable_ranks=gpt2._mergeable_ranks, special_tokens={}
    )
    with pytest.raises(TokenizerError, match="'bare' has no <|endoftext|>"):
        Tiktoken.of(bare)


def test_fingerprints_tell_tokenizers_apart(tmp_path: Path) -> None:
    write_ranks({bytes([byte]): byte for byte in range(256)}, tmp_path / "a.tiktoken")
    variants = [
        *TOKENIZERS,
        Letters("ab"),
        Letters("ba"),
        Tiktoken(ranks=tmp_path / "a.tiktoken"),
        Tiktoken(ranks=tmp_path / "a.tiktoken", pattern=r"[\s\S]"),
        Tiktoken(ranks=tmp_path / "a.tiktoken", special_tokens={"<|user|>": 257}),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    assert len({variant.text_fingerprint for variant in variants}) == len(variants)


def test_tokenizers_saved_before_there_were_templates_are_loaded(tmp_path: Path) -> None:
    """The fingerprints are those that were written then."""
    now = Tiktoken("python4k")
    now.save(tmp_path)
    about = json.loads((tmp_path / "tokenizer.json").read_text())
    assert about["settings"].keys() == {"ranks", "pattern", "special_tokens"}
    assert now.fingerprint == "8875c0bde509ac58d6b1c62a8d98561049e6d0e0fe871740ff7cd149465b5c45"
    assert load_tokenizer(tmp_path).chat.name == "plain"
    then = "d2a84d05564942d7d269768b2f1c930195575c3f96034cd1d51e25e6d5e3c801"
    assert Byte().fingerprint == then


def test_altered_tokenizers_are_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer.json: cannot read"):
        load_tokenizer(tmp_path)
    Letters("ab").save(tmp_path)
    file = tmp_path / "tokenizer.json"
    about = json.loads(file.read_text())

    file.write_text(json.dumps({**about, "settings": {"letters": "ba"}}))
    with pytest.raises(TokenizerError, match="not the one that was saved"):
        load_tokenizer(tmp_path)
    file.write_text(json.dumps({**about, "class": "os.system", "settings": {"command": "exit 3"}}))
    with pytest.raises(TokenizerError, match="os.system is not a Tokenizer"):
        load_tokenizer(tmp_path)
    file.write_text(json.dumps({**about, "class": "nowhere.Letters"}))
    with pytest.raises(ConfigError, match="nowhere"):
        load_tokenizer(tmp_path)
    for broken in ("{", "[]", "{}", '{"class": 1, "settings": 2, "fingerprint": 3}'):
        file.write_text(broken)
        with pytest.raises((TokenizerError, ConfigError)):
            load_tokenizer(tmp_path)
