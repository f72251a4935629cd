"""A vocabulary learned from a source: the same one everywhere, learned once, whole and honest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkit.config import Spec, build
from lmkit.data import InMemory, vocabulary
from lmkit.data.sources import TextFiles
from lmkit.data.vocabulary import open_files, texts_of, train_tokenizer
from lmkit.errors import ConfigError, DataError, TokenizerError
from lmkit.prompts import Message, Part, Prompt
from lmkit.text import Tiktoken, load_tokenizer
from lmkit.text.encodings import CHAT_TOKENS

WORDS = [f"the {color} fox number {n} runs\n" for n in range(40) for color in ("red", "blue")]
SPECIAL = len(CHAT_TOKENS)


def of_words(vocab_size: int = 256 + 40 + SPECIAL, **options: object) -> Tiktoken:
    return train_tokenizer(InMemory(WORDS, holdout=0.0), vocab_size, **options)  # type: ignore[arg-type]


def test_every_entry_is_counted_and_the_special_tokens_come_last() -> None:
    tokenizer = of_words()
    assert tokenizer.vocab_size == 256 + 40 + SPECIAL
    ids = [tokenizer.special_tokens[name] for name in CHAT_TOKENS]
    assert ids == list(range(256 + 40, 256 + 40 + SPECIAL))
    assert tokenizer.bos == tokenizer.eos == ids[0]
    assert b" fox" in tokenizer.vocabulary()
    assert of_words(300, chat="plain").special_tokens == {"<|endoftext|>": 299}


@given(st.text() | st.lists(st.sampled_from([*CHAT_TOKENS, " fox", "é", "🙂"])).map("".join))
def test_any_text_comes_back_and_none_becomes_a_special_token(text: str) -> None:
    tokenizer = of_words()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special_tokens.values())


def test_another_process_learns_the_same(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("".join(WORDS))
    code = (
        "import sys; from lmkit.data.vocabulary import train_tokenizer; "
        "print(train_tokenizer(sys.argv[1], 300).fingerprint)"
    )
    prints = {train_tokenizer(str(file), 300).fingerprint}
    for threads in ("1", "2"):
        environment = {
            **os.environ,
            "LMKIT_CACHE": str(tmp_path / threads),
            "RAYON_NUM_THREADS": threads,
        }
        done = subprocess.run(
            [sys.executable, "-c", code, str(file)],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        prints.add(done.stdout.strip())
    assert len(prints) == 1


def test_it_is_learned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMKIT_CACHE", str(tmp_path))
    first = of_words()
    monkeypatch.setattr(vocabulary, "train", lambda *_: pytest.fail("learned again"))
    assert of_words().fingerprint == first.fingerprint
    # the chat format changes no merge, only how many there is room for
    assert of_words(256 + 40 + 1, chat="plain").vocab_size == 297
    with pytest.raises(BaseException, match="learned again"):
        of_words(pattern=r"[a-z]+|[\s\S]")


def test_what_is_held_out_is_not_read(tmp_path: Path) -> None:
    names = {f"w{letter}yx" for letter in "abcdefghijklmnopqrstuvwxyz"}
    for name in names:
        (tmp_path / f"{name}.txt").write_text(f"{name} " * 50)
    source = TextFiles(str(tmp_path), holdout=0.3)
    held_out = {str(document.text)[:4] for document in source.documents("validation")}
    tokens = train_tokenizer(source, 1000, chat="plain").vocabulary()
    learned = {token.strip().decode() for token in tokens if token.endswith(b"yx")}
    assert held_out
    assert learned & names == names - held_out


def test_files_are_read_whole_and_tables_as_tables(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("aaaa bbbb\n" * 9)
    turns = [{"role": role, "content": "zzzz"} for role in ("user", "assistant") * 4]
    conversation = {"messages": turns}
    (tmp_path / "b.jsonl").write_text(json.dumps(conversation) + "\n")
    said = [t for s in open_files(["a.txt", "b.jsonl"], str(tmp_path)) for d in s.documents("train")
            for t in texts_of(d)]  # fmt: skip
    assert said == ["aaaa bbbb\n" * 9, *["zzzz"] * 8]
    tokens = train_tokenizer(["a.txt", "*.jsonl"], 290, folder=str(tmp_path)).vocabulary()
    assert {b"aaaa", b"zzzz"} <= set(tokens)
    assert b"role" not in tokens


def test_all_that_is_said_is_read() -> None:
    parts = (Part("python", "1+1"), Part("python_output", "2"), Part("text", "two"))
    prompts = {
        "t": Prompt(text="t"),
        "p a": Prompt(prompt="p", truth="a"),
        "p c r": Prompt(prompt="p", chosen="c", rejected="r"),
        "q 1+1 2 two": Prompt(messages=(Message("user", "q"), Message("assistant", parts))),
    }
    for expected, prompt in prompts.items():
        assert " ".join(texts_of(prompt)) == expected


def test_the_rest_of_long_documents_comes_last_and_only_where_there_is_room() -> None:
    source = InMemory(["x" * 300 + "longer" * 60, "short" * 60], holdout=0.0)
    options = {"vocab_size": 300, "document_chars": 300}
    cut = train_tokenizer(source, max_chars=600, **options).vocabulary()  # type: ignore[arg-type]
    assert b"short" in cut
    assert b"longer" not in cut
    assert b"longer" in train_tokenizer(source, **options).vocabulary()  # type: ignore[arg-type]


def test_a_folder_that_was_saved_is_a_tokenizer(tmp_path: Path) -> None:
    tokenizer = of_words(pattern=r"[a-z]+|[\s\S]", chat="chatml")
    (tmp_path / "own").mkdir()
    tokenizer.save(tmp_path / "own")
    spec = {"class": "lmkit.text.tokenizer.Tiktoken", "ranks": "own"}
    for again in (load_tokenizer(tmp_path / "own"), build(spec, folder=str(tmp_path))):
        assert again.fingerprint == tokenizer.fingerprint
        assert again.chat == tokenizer.chat
    plain = Tiktoken(ranks=tmp_path / "own", chat="plain")
    assert plain.encode("the fox") == tokenizer.encode("the fox")
    assert plain.chat != tokenizer.chat


def test_a_yaml_names_it_with_its_source_inside() -> None:
    spec = Spec.of({
        "class": "lmkit.data.vocabulary.train_tokenizer",
        "train_on": {"class": "lmkit.data.InMemory", "prompts": WORDS, "holdout": 0.0},
        "vocab_size": "307",
    })  # fmt: skip
    assert build(spec).fingerprint == of_words(307).fingerprint


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"of 200 cannot hold .* the least is 267") as small:
        of_words(200)
    assert small.value.key == "vocab_size"
    assert of_words(267).vocab_size == 267, "the least, without a merge"
    with pytest.raises(ConfigError, match="document_chars must be at least 1"):
        of_words(document_chars=0)
    with pytest.raises(TokenizerError, match="split pattern") as wrong:
        of_words(pattern="(")
    assert wrong.value.at is None, "no file of the user's"
    with pytest.raises(TokenizerError, match="there is no chat"):
        of_words(chat="nanochta")
    with pytest.raises(DataError, match="no text to learn"):
        train_tokenizer(InMemory([{"text": ""}], holdout=0.0), 300)
    with pytest.raises(DataError, match=r"prompts\[1\]: a lone surrogate"):
        train_tokenizer(InMemory(["x", "\ud800"], holdout=0.0), 300)
    with pytest.raises(DataError, match="gone.txt: no such file"):
        train_tokenizer("gone.txt", 300, folder=str(tmp_path))
    monkeypatch.setitem(sys.modules, "rustbpe", None)
    with pytest.raises(TokenizerError, match="needs rustbpe"):
        of_words(268)


def test_a_text_too_small_for_the_vocabulary_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = train_tokenizer(InMemory(["ab"], holdout=0.0), 1000)
    assert tokenizer.vocab_size == 257 + SPECIAL
    assert "no more pairs to merge: 268 entries, not 1,000" in caplog.text
