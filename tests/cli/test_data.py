"""`lmkit data show`: the mask of a stage's rows, in colour and without."""

from __future__ import annotations

from typing import Any

import pytest

from lmkit.cli.data import draw_document, draw_row
from lmkit.lab.mask import Document, Row, Span

SPANS = (
    Span("<|bos|>", trained=False, special=True),
    Span("ask <|bos|>\n", trained=False, special=False),
    Span("say\n\tit", trained=True, special=False),
    Span("<|end|>", trained=True, special=True),
)
STAGE = """\
  - name: sft
    data:
      class: lmkit.data.InMemory
      prompts: [{prompt: "2+2=", truth: "4"}, {prompt: "1+1=", truth: "2"}]
      holdout: 0.0
    include_prompts: false
    steps: 1
"""


def test_brackets_mark_what_is_trained() -> None:
    text = draw_document(Document(SPANS, 9, 5), colour=False)
    assert text == "<|bos|>ask <\\|bos|>\n⟦say\n\\tit<|end|>⟧", "text spells a token, and is text"
    untrained_at_the_end = Document((*SPANS, SPANS[0]), 10, 5)
    assert draw_document(untrained_at_the_end, colour=False).endswith("<|end|>⟧<|bos|>")


def test_colours_mark_what_is_trained_and_what_is_special() -> None:
    text = draw_document(Document(SPANS, 9, 5), colour=True)
    assert text.startswith("\x1b[2;7m<|bos|>\x1b[0m\x1b[2mask <|bos|>\x1b[0m")
    assert "\x1b[32m\\tit\x1b[0m" in text
    assert text.endswith("\x1b[32;7m<|end|>\x1b[0m")
    assert all(line.count("\x1b[") % 2 == 0 for line in text.split("\n")), "no colour runs over"


def test_a_row_tells_its_padding_and_its_documents() -> None:
    lines = list(draw_row(Row((Document(SPANS, 9, 5), Document(SPANS, 6, 5)), 5), 2, colour=False))
    assert lines[0] == "row 2: 15 tokens, then 5 of padding; 50% of the row is trained"
    assert lines[1] == "--- document 1: 9 tokens, 5 trained"
    assert lines[3] == "--- document 2: 6 tokens, 5 trained"


def test_show_paints_the_rows_of_a_stage(project: Any) -> None:
    project.yaml.write_text(project.yaml.read_text() + STAGE)
    done = project.lmkit("data", "show", project.yaml, "--stage", "sft", "-n", 2)
    assert done.code == 0, done.err
    assert "<|endoftext|>2+2=⟦4<|endoftext|>⟧" in done.out
    assert "<|endoftext|>1+1=⟦2<|endoftext|>⟧" in done.out
    assert done.out.count("\nrow ") == 2
    assert not project.run.exists(), "it only looks"
    first = project.lmkit("data", "show", project.yaml, "--rows", "1", "stages.0.batch_size=1")
    assert " and " in first.out, "the first stage by default"
    assert "\x1b[32m" in project.lmkit("data", "show", project.yaml, "--color").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stage", "pretrian"], "there is no stage 'pretrian'; did you mean 'pretrain'?"),
        (["--rows", "0"], "--rows: 0 rows are none"),
        (["stages.0.data.path=gone.txt"], "gone.txt"),
    ],
)
def test_show_refuses(words: list[str], said: str, project: Any) -> None:
    done = project.lmkit("data", "show", project.yaml, *words)
    assert done.code == 2
    assert said in done.error
