"""`lmkit tokenizer`: a vocabulary learned, shown and compared from the command line."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmkit.cli.paint import wants_colour
from lmkit.cli.tokenizer import draw_pieces
from lmkit.lab.compression import pieces
from lmkit.text import Byte, Tiktoken, load_tokenizer

TEXT = "the red fox and the blue fox\n" * 30


@pytest.fixture
def learned(lmkit: Callable[..., Any], tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text(TEXT)
    out = tmp_path / "own"
    assert (
        lmkit("tokenizer", "train", "--vocab-size", 280, "--out", out, tmp_path / "a.txt").code == 0
    )
    return out


def test_train_writes_a_folder_and_says_how_well_it_compresses(
    lmkit: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    out = tmp_path / "own"
    done = lmkit("tokenizer", "train", tmp_path / "*.txt", "--vocab-size", 280, "--out", out)
    assert done.code == 0, done.err
    assert f"{out}: 280 entries, 11 of them special" in done.out
    assert f"class: lmkit.text.tokenizer.Tiktoken, ranks: {out}" in done.out
    tokenizer = load_tokenizer(out)
    per_token = len(TEXT) / len(tokenizer.encode(TEXT))
    row = next(line for line in done.out.splitlines() if line.startswith(str(out)))
    assert f"{per_token:.2f}" in done.out, row
    assert "gpt2" in done.out
    assert sorted(file.name for file in out.iterdir()) == ["tokenizer.json", "vocabulary.tiktoken"]


def test_train_on_a_source_with_options(lmkit: Callable[..., Any]) -> None:
    source = "{class: lmkit.data.InMemory, prompts: [aXbX aXbX aXbX], holdout: 0.0}"
    done = lmkit(
        "tokenizer", "train", "--source", source, "--vocab-size", 260, "--chat", "plain",
        "--pattern", r"[A-Z]|[a-z]+|\s|[\s\S]", "--max-chars", 4,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "tokenizer_260: 257 entries, 1 of them special" in done.out, "no merge crosses a split"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--vocab-size", 300], "give either files or --source"),
        (["--vocab-size", 300, "x", "--source", "y"], "give either files or --source"),
        (["--vocab-size", 300, "gone"], "gone: no such file or folder"),
        (["--vocab-size", 300, "--source", "{"], "--source: not a class or a mapping; {"),
        (["--vocab-size", 300, "--source", "lmkit.text.Byte"], "lmkit.text.Byte is no source"),
        (["--vocab-size", 300, "--source", "lmkit.data.InMemori"], "did you mean 'InMemory'"),
        (["x"], "required: --vocab-size"),
    ],
)  # fmt: skip
def test_train_refuses(words: list[Any], said: str, lmkit: Callable[..., Any]) -> None:
    done = lmkit("tokenizer", "train", *words)
    assert done.code == 2
    assert said in done.error


def test_pieces_stand_above_their_ids() -> None:
    tokenizer = Tiktoken("gpt2")
    found = pieces(tokenizer, "def f():\n\tnaïve 漢<|endoftext|>", allow_special=True)
    lines = draw_pieces(found, width=80, colour=False)
    assert lines[:3] == [r"def  ␣f  ():   \n", "4299 277 33529 198", ""]
    assert lines[3].split()[0] == r"\t"
    assert "<|endoftext|>" in lines[3]
    assert r"␣\xe6 \xbc \xa2" in lines[3], "a part of a character is shown as its bytes"
    coloured = "\n".join(draw_pieces(found, width=80, colour=True))
    assert (
        coloured.count("\x1b[30;48;5;153m") + coloured.count("\x1b[30;48;5;223m") == len(found) - 1
    )
    assert coloured.count("\x1b[1;97;44m<|endoftext|>\x1b[0m") == 1


def test_lines_are_as_wide_as_the_terminal() -> None:
    found = pieces(Byte(), "abc" * 40)
    lines = draw_pieces(found, width=40, colour=False)
    assert max(map(len, lines)) <= 40
    assert "".join("".join(lines[0::3]).split()) == "abc" * 40
    wide = draw_pieces(pieces(Tiktoken("gpt2"), "漢字" * 40), width=20, colour=False)
    assert len(wide) > 3


def test_show(lmkit: Callable[..., Any], learned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = lmkit("tokenizer", "show", learned, "the fox <|bos|>")
    assert done.code == 0, done.err
    assert "␣fox" in done.out
    assert "<|bos|>" not in done.out, "text that spells a special token is text"
    assert "15 characters, 15 bytes" in done.out
    assert "\x1b" not in done.out
    assert "<|bos|>" in lmkit("tokenizer", "show", learned, "<|bos|>", "--special").out
    assert "\x1b" in lmkit("tokenizer", "show", learned, "the fox", "--color").out
    monkeypatch.setattr("sys.stdin", io.StringIO("fox fox"))
    assert "7 characters" in lmkit("tokenizer", "show", "gpt2", "-").out
    described = lmkit("tokenizer", "show", learned).out
    assert "Tiktoken, 280 entries" in described
    assert "bos      <|bos|> 269" in described
    assert "<|system_end|> 279" in described


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    off = argparse.Namespace(color=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_colour(off)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(off)
    assert wants_colour(argparse.Namespace(color=True))


def test_a_tokenizer_has_many_names(project: Any, learned: Path) -> None:
    lmkit = project.lmkit
    assert "Byte, 257 entries" in lmkit("tokenizer", "show", project.yaml).out
    assert lmkit("tokenizer", "show", learned / "vocabulary.tiktoken", "fox").code == 0
    assert project.train("stages.0.steps=1").code == 0
    assert "Byte, 257 entries" in lmkit("tokenizer", "show", project.run).out
    assert "did you mean 'gpt2'" in lmkit("tokenizer", "show", "gpt3").error
    assert "no checkpoint is here" in lmkit("tokenizer", "show", project.folder).error


def test_compare(
    lmkit: Callable[..., Any], learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = lmkit("tokenizer", "compare", learned, "python4k", "--files", tmp_path / "a.txt")
    assert done.code == 0, done.err
    table = [line.split() for line in done.out.splitlines()]
    rows = {row[0]: row for row in table if len(row) >= 4}
    base = len(TEXT) / len(Tiktoken("gpt2").encode(TEXT))
    own = len(TEXT) / len(load_tokenizer(learned).encode(TEXT))
    assert rows["gpt2"][3] == f"{base:.2f}"
    assert rows[str(learned)][3:] == [f"{own:.2f}", f"{base / own - 1:+.1%}"]
    assert rows["python4k"][1] == "4,096"

    def offline(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("tiktoken.get_encoding", offline)
    done = lmkit("tokenizer", "compare", "cl100k_base", learned, "--files", tmp_path / "a.txt")
    assert done.code == 0
    assert "cl100k_base is left out: cannot download" in done.err
    assert str(learned) in done.out
    assert (
        "there is no vocabulary 'x'" in lmkit("tokenizer", "compare", "x", "--files", learned).error
    )
