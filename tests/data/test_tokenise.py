from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lmkit.data import (
    InMemory,
    JsonLines,
    MixedStores,
    Mixture,
    TextFiles,
    TokenStore,
    bar,
    encoder,
    find_prepared,
    prepare,
    tokenise,
)
from lmkit.data.store import dtype_of
from lmkit.errors import DataError, TokenizerError
from lmkit.prompts import Prompt
from lmkit.text import Byte, Tiktoken, Tokenizer, encode_prompt, trim
from lmkit.train.stage_data import report_notes


class Words(Tokenizer):
    """Every word an id of its own, by its number; bos and eos differ."""

    bos, eos = 0, 1
    special_tokens = {"<bos>": 0, "<eos>": 1}  # noqa: RUF012

    def __init__(self, size: int = 70_000, over: int = 0) -> None:
        self.size, self.over = size, over

    def vocabulary(self) -> list[bytes]:
        return [b"%d " % number for number in range(self.size)]

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        return [int(word) + self.over for word in text.split()]

    def settings(self) -> dict[str, int]:
        return {"size": self.size, "over": self.over}


def prepared(source: object, tokenizer: Tokenizer | None = None, **options: object) -> TokenStore:
    options = {"max_len": 16, "progress": False, **options}
    return prepare(source, tokenizer or Byte(), options.pop("split", "all"), **options)


def ids_of(store: TokenStore, document: int) -> list[int]:
    return store.tokens(document, 0, int(store.lengths[document])).tolist()


def test_texts_become_their_ids_without_bos() -> None:
    store = prepared(InMemory(["abc", "", "de"]))
    assert [ids_of(store, document) for document in range(2)] == [[97, 98, 99], [100, 101]]
    assert (store.document_count, store.token_count, store.prompts) == (2, 5, False)
    assert store.mask(0, 0, 3) is None
    assert store.notes == {"empty": 1, "first_empty": "prompts[1]"}


def test_an_eos_of_its_own_ends_every_text() -> None:
    assert ids_of(prepared(InMemory(["5 6"]), Words()), 0) == [5, 6, 1]


def test_special_tokens_never_come_from_text() -> None:
    store = prepared(InMemory(["a<|endoftext|>b", " " * 1_200_000]), Tiktoken("gpt2"))
    assert 50256 not in ids_of(store, 0) + ids_of(store, 1)
    assert Tiktoken("gpt2").decode(ids_of(store, 0)) == "a<|endoftext|>b"


@pytest.mark.parametrize(
    ("size", "dtype"), [(257, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_the_smallest_type_that_holds_the_vocabulary(size: int, dtype: str) -> None:
    assert dtype_of(size) == np.dtype(dtype)


def test_large_ids_do_not_wrap_around() -> None:
    assert ids_of(prepared(InMemory(["69999 65536"]), Words()), 0) == [69999, 65536, 1]


@pytest.mark.parametrize("over", [1, -1])
def test_an_id_outside_the_vocabulary_is_an_error(over: int) -> None:
    with pytest.raises(TokenizerError, match=r"gave the id (70000|-1); its vocab_size is 70000"):
        prepared(InMemory(["0 69999"]), Words(over=over))


@pytest.mark.parametrize("name", ["gpt2", "python4k"])
def test_a_long_text_cut_into_chunks_has_the_same_ids(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "CHUNK", 100)
    text = Path(re.__file__).read_text() + "ÄÖ\u3000 漢字\n\n  x1 2\t y" * 50
    tokenizer = Tiktoken(name)
    assert ids_of(prepared(InMemory([text, "b"]), tokenizer), 0) == tokenizer.encode(text)


def test_many_chunks_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uneven(Byte):
        def encode(self, text: str, allow_special: bool = False) -> list[int]:
            time.sleep(0.002 if int(text) % 3 else 0)
            return super().encode(text)

    monkeypatch.setattr(encoder, "CHUNK", 5)
    texts = [f"{number:03}" for number in range(100)]
    store = prepared(InMemory(texts), Uneven())
    assert ["".join(map(chr, ids_of(store, number))) for number in range(100)] == texts


def test_memory_is_bounded_by_reading_little_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    read, written = [0], []

    class Counting(InMemory):
        def documents(self, split: str):
            for document in super().documents(split):
                read[0] += 1
                yield document

    class Watching(tokenise.StoreWriter):
        def end_document(self) -> None:
            super().end_document()
            written.append(read[0] - self.document_count)

    monkeypatch.setattr(encoder, "CHUNK", 30)
    monkeypatch.setattr(tokenise, "StoreWriter", Watching)
    monkeypatch.setattr(tokenise.os, "cpu_count", lambda: 2)
    prepared(Counting(["0123456789"] * 1000))
    assert len(written) == 1000
    assert max(written) < 20  # of 1,000: five chunks of three


class TestPrompts:
    def test_samples_are_stored_as_encode_prompt_makes_them(self) -> None:
        prompts = [{"prompt": "ab", "truth": "c"}, {"prompt": "d", "truth": "efg"}]
        for include in (True, False):
            store = prepared(InMemory(prompts), include_prompts=include)
            assert store.prompts
            for number, prompt in enumerate(prompts):
                sample = encode_prompt(Byte(), Prompt.of(prompt), include_prompts=include)
                assert ids_of(store, number) == sample.ids[1:].tolist()
                mask = store.mask(number, 0, int(store.lengths[number]))
                assert mask.tolist() == sample.mask[1:].tolist()

    def test_long_ones_are_trimmed_and_those_without_a_target_reported(self) -> None:
        long = {"prompt": "ab", "truth": "c" * 20}
        hidden = {"prompt": "p" * 20, "truth": "x"}
        source = InMemory([long, hidden, hidden])
        store = prepared(source, include_prompts=False, max_len=8)
        whole = encode_prompt(Byte(), Prompt.of(long), include_prompts=False)
        assert ids_of(store, 0) == trim(whole, 8).ids[1:].tolist()
        assert store.document_count == 1
        assert store.notes == {
            "trimmed": 3,
            "first_trimmed": "prompts[0]",
            "without_target": 2,
            "first_without_target": "prompts[1]",
        }
        assert prepared(source, include_prompts=False, max_len=8).notes == store.notes

    def test_if_none_has_a_target_that_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "x.jsonl"
        path.write_text('\n{"prompt": "pppppppppp", "truth": "x"}\n')
        with pytest.raises(DataError, match=r"x.jsonl:2: none of the 1 prompts has anything"):
            prepared(JsonLines(str(path)), include_prompts=False, max_len=8)

    def test_texts_among_them_are_an_error(self) -> None:
        with pytest.raises(DataError, match=r"prompts\[1\]: texts and prompts in one source"):
            prepared(InMemory([{"prompt": "a", "truth": "b"}, "text"]))


class TestCache:
    def test_the_second_time_nothing_is_encoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = prepared(InMemory(["abc"]))
        monkeypatch.setattr(tokenise, "_write", lambda *_: pytest.fail("again"))
        assert prepared(InMemory(["abc"])).folder == first.folder

    def test_the_key_is_content_tokenizer_split_and_for_prompts_the_options(self) -> None:
        source = InMemory(["abc", "de"], holdout=0.5)
        folders = [
            prepared(source).folder,
            prepared(InMemory(["abc", "df"], holdout=0.5)).folder,
            prepared(source, Tiktoken("gpt2")).folder,
            prepared(source, split="train").folder,
            prepared(source, split="validation").folder,
        ]
        assert len(set(folders)) == 5
        assert prepared(source, max_len=99, include_prompts=False).folder == folders[0]
        prompts = InMemory([{"prompt": "a", "truth": "b"}])
        options = [{}, {"max_len": 99}, {"include_prompts": False}]
        assert len({prepared(prompts, **option).folder for option in options}) == 3

    @pytest.mark.parametrize("document", ["abc", {"prompt": "a", "truth": "b"}])
    def test_what_is_there_can_be_asked_for(self, document: object, tmp_path: Path) -> None:
        source = InMemory([document], holdout=0.0)
        options = {"max_len": 16, "cache": tmp_path}
        assert find_prepared(source, Byte(), "train", **options) is None
        made = prepare(source, Byte(), "train", **options)
        found = find_prepared(source, Byte(), "train", **options)
        assert found is not None
        assert found.folder == made.folder
        assert find_prepared(source, Byte(), "validation", **options) is None

    def test_an_empty_split_is_a_store_without_documents(self) -> None:
        store = prepared(InMemory(["abc", "de"], holdout=0), split="validation")
        assert (store.token_count, store.document_count) == (0, 0)


def test_bad_text_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "\\ud800"}\n')
    with pytest.raises(DataError, match=r"x.jsonl:2: a lone surrogate at character 0"):
        prepared(JsonLines(str(path)))


@pytest.mark.parametrize("of_terminal", [True, False])
def test_a_bar_or_lines_are_shown_on_stderr_if_it_takes_long(
    of_terminal: bool,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(Byte):
        def encode(self, text: str, allow_special: bool = False) -> list[int]:
            time.sleep(0.15)
            return super().encode(text)

    monkeypatch.setattr(encoder, "CHUNK", 5)
    monkeypatch.setattr(tokenise.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: of_terminal)
    monkeypatch.setattr(bar, "LINE_EVERY", 0.1)
    (tmp_path / "x.txt").write_text("\n\n".join(["0123456789"] * 6))
    source = TextFiles(str(tmp_path / "x.txt"), per_file=False)
    prepare(source, Slow(), "all", max_len=8)
    shown = capfd.readouterr()
    assert not shown.out
    assert "tokenising all" in shown.err
    assert ("\r" in shown.err) == of_terminal
    if not of_terminal:
        assert all(line.startswith("tokenising all: ") for line in shown.err.splitlines())
    prepare(source, Slow(), "train", max_len=8, progress=False)
    assert not capfd.readouterr().err


def test_a_mixture_is_prepared_part_by_part() -> None:
    texts, prompts = InMemory(["abc"]), InMemory([{"prompt": "a", "truth": "b"}])
    mixed = prepared(Mixture([{"source": texts, "weight": 3}, {"source": prompts}]))
    assert isinstance(mixed, MixedStores)
    assert [store.folder for store in mixed.stores] == [
        prepared(texts).folder,
        prepared(prompts).folder,
    ]
    assert (mixed.weights, mixed.token_count, mixed.prompts) == ([3, 1.0], 6, True)


@pytest.mark.parametrize(("template", "told"), [("nanochat", False), ("chatml", True)])
def test_calls_of_tools_that_find_no_place_are_noted(
    template: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [
        {"type": "python", "text": "1 + 2"},
        {"type": "python_output", "text": "3"},
        {"type": "text", "text": "It is 3."},
    ]
    asked = {"role": "user", "content": "?"}
    calls = {"messages": [asked, {"role": "assistant", "content": parts}]}
    says = {"messages": [asked, {"role": "assistant", "content": "It is 3."}]}
    source = InMemory([says, calls, calls])
    store = prepared(source, Tiktoken("python4k", chat=template), max_len=64)
    noted = {"tools_left_out": 2, "first_tools_left_out": "prompts[1]"}
    assert store.notes == (noted if told else {})
    report_notes("sft", store.notes)
    said = "sft: 2 samples call tools, for which the chat template has no place"
    assert (said in caplog.text) == told
