"""A run told: all of it, safely, as a page and as Markdown; odd runs too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lmkit.checkpoints.contents import CheckpointContents
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.errors import DataError
from lmkit.lab.document import Charts, Document, Samples, Section, Table, Tiles
from lmkit.lab.markdown import markdown
from lmkit.lab.page import page
from lmkit.lab.report import SAMPLES, report
from lmkit.lab.run_history import read_run
from lmkit.model import LMBase
from lmkit.text import Byte

SECTIONS = [
    "At a glance", "Stages", "Evaluation", "Curves", "Samples", "Memory and throughput",
    "Environment", "Experiment",
]  # fmt: skip
EVIL = '<script src="https://evil.example/x.js"></script> | `a` & "b"'
VOID = {"meta", "br"}


class Lookup(LMBase):
    def __init__(self) -> None:
        super().__init__(tokenizer=Byte(), max_len=4)
        self.embedding = nn.Embedding(257, 257)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens)


class Page(HTMLParser):
    """A page taken apart; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "h2":
            self.headings.append(data)
        if "style" not in self._open:
            self.text += data


def write_run(folder: Path, lines: Iterable[dict[str, Any]], **experiment: Any) -> Path:
    lines = list(lines)
    stages = [{"name": name, "data": {"class": name}} for name in dict.fromkeys(
        line["stage"] for line in lines)]  # fmt: skip
    described = {"name": "tiny", "model": {"class": "my.Model", "depth": 2}, "stages": stages}
    folder.mkdir(exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps({**described, **experiment}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def step(number: int, stage: str = "pretrain", **more: Any) -> dict[str, Any]:
    values = {"loss": 3.0, "bits_per_byte": 1.5, "grad_norm": 1.0, "rate_Muon": 0.02, "tokens": 100}
    return {"step": number, "stage": stage, **values, "seconds": 0.5, "waited": 0.1, **more}


def evaluated(value: float, error: float) -> dict[str, float]:
    return {"validation_sums": value, "validation_sums_stderr": error, "validation_sums_ended": 0.5}


def section(document: Document, title: str) -> Section:
    return next(each for each in document.sections if each.title == title)


def table(document: Document, title: str) -> list[list[str]]:
    (found,) = (block for block in section(document, title).blocks if isinstance(block, Table))
    return [list(found.head), *([cell.text for cell in row] for row in found.rows)]


def pipeline(folder: Path) -> Path:
    """Three stages: text, conversations, rewarded answers."""
    lines = [step(n, validation_bits_per_byte=2.0, validation_loss=4.0, validation_tokens=99,
                  samples=[["def ", f"a{n}"], [EVIL, EVIL]]) for n in range(1, 21)]  # fmt: skip
    lines[-1] |= {**evaluated(0.10, 0.01), "evaluation_seconds": 5.0}
    lines += [step(n, "sft", **evaluated(0.40, 0.02)) for n in range(21, 31)]
    lines += [step(n, "rl", reward=0.5, bits_per_byte=None) for n in range(31, 41)]
    lines[-1] |= evaluated(0.42, 0.02)
    return write_run(folder, lines)


def test_the_stages_and_what_they_took(tmp_path: Path) -> None:
    document = report(read_run(pipeline(tmp_path)), dollars_per_hour=720.0)
    head, pretrain, _, rl, total = table(document, "Stages")
    assert dict(zip(head, pretrain, strict=True)) == {
        "stage": "pretrain", "steps": "20", "tokens": "2k", "time": "10s",
        "evaluation": "5.0s", "cost": "$3.00", "tokens/s": "200", "loss": "3.0000",
        "bits/byte": "1.5000", "held-out": "2.0000",
    }  # fmt: skip
    assert rl[-3:] == ["", "", ""], "the loss of rewarded answers tells nothing"
    assert total[:6] == ["all", "40", "4k", "20s", "5.0s", "$5.00"]
    assert document.summary == "Model, 40 steps: pretrain → sft → rl"
    assert "cost" not in table(report(read_run(tmp_path)), "Stages")[0]


def test_what_each_stage_brought(tmp_path: Path) -> None:
    document = report(read_run(pipeline(tmp_path)))
    (results,) = (b for b in section(document, "Evaluation").blocks if isinstance(b, Table))
    rows = {row[0].text: row[1:] for row in results.rows}
    assert list(rows) == ["bits per byte", "loss, nats per token", "sums", "sums, answers ended"]
    first, sft, rl = rows["sums"]
    assert (first.text, first.note) == ("10.0 % ± 1.0", "")
    assert (sft.text, sft.note, sft.tone) == ("40.0 % ± 2.0", "+30.0", "better")
    assert (rl.text, rl.note, rl.tone) == ("42.0 % ± 2.0", "+2.0", ""), "within the noise"


def test_losses_are_compared_on_the_same_text_only(tmp_path: Path) -> None:
    lines = [
        step(1, "a", validation_bits_per_byte=2.0),
        step(2, "b", validation_bits_per_byte=1.0),
        step(3, "c", validation_bits_per_byte=1.5),
    ]
    stages = [
        {"name": name, "data": {"class": text}} for name, text in zip("abc", "xyy", strict=True)
    ]
    document = report(read_run(write_run(tmp_path, lines, stages=stages)))
    (results,) = (b for b in section(document, "Evaluation").blocks if isinstance(b, Table))
    _, a, b, c = results.rows[0]
    assert (a.note, b.note, c.note, c.tone) == ("", "", "+0.5000", "worse")


def test_curves_of_all_that_was_measured(tmp_path: Path) -> None:
    document = report(read_run(pipeline(tmp_path)))
    (charts,) = (b for b in section(document, "Curves").blocks if isinstance(b, Charts))
    by_title = {chart.title: chart for chart in charts.charts}
    assert list(by_title) == [
        "loss, nats per token", "bits per byte", "sums", "reward", "gradient norm",
        "learning rate", "tokens per second",
    ]  # fmt: skip
    loss = by_title["loss, nats per token"]
    assert [series.name for series in loss.series] == ["training", "held out"]
    assert loss.series[0].points[-1][0] == 30, "without the answers' stage"
    assert [span.name for span in loss.spans] == ["pretrain", "sft", "rl"]
    assert [span.name for span in by_title["reward"].spans] == ["rl"]
    assert by_title["sums"].series[0].errors[-1] == (40, 0.02)


def test_samples_of_one_prompt_stand_together(tmp_path: Path) -> None:
    document = report(read_run(pipeline(tmp_path)))
    first, second = (b for b in section(document, "Samples").blocks if isinstance(b, Samples))
    assert (first.prompt, second.prompt) == ("def ", EVIL)
    assert [sample.text for sample in first.samples][:1] == ["a1"]
    assert [sample.text for sample in first.samples][-1:] == ["a20"]
    assert len(first.samples) == SAMPLES


def test_the_page_is_whole_and_asks_for_nothing(tmp_path: Path) -> None:
    text = page(report(read_run(pipeline(tmp_path)), 1.0))
    found = Page(text)
    assert found.headings == SECTIONS
    assert {tag for tag, _ in found.tags} & {"script", "link", "img", "iframe", "object"} == set()
    for tag, attributes in found.tags:
        assert not {"src", "href", "xlink:href", "style", "onload"} & attributes.keys(), tag
        assert not any("//" in (value or "") for value in attributes.values())
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert EVIL in found.text, "told as it was written"
    assert sum(tag == "svg" for tag, _ in found.tags) == 7
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_the_markdown_has_it_all_too(tmp_path: Path) -> None:
    text = markdown(report(read_run(pipeline(tmp_path)), 1.0))
    assert re.findall(r"^## (.+)", text, re.MULTILINE) == SECTIONS
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside.replace(r"\<", "")
    assert EVIL in text, "within a fence"
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert "| sums | 10.0 % ± 1.0 | 40.0 % ± 2.0 (+30.0) | 42.0 % ± 2.0 (+2.0) |" in rows
    assert any("reward" in row and "▁" in row for row in rows)


def test_a_fence_is_longer_than_what_it_holds(tmp_path: Path) -> None:
    evil = "```\n# not a heading\n```"
    text = markdown(report(read_run(write_run(tmp_path, [step(1, samples=[["p", evil]])]))))
    assert f"````\n{evil}\n````" in text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([step(1)], "Nothing was evaluated."),
        ([step(1, loss=None, grad_norm=None, bits_per_byte=None)], "was not a finite number: 1."),
        ([step(n, loss=None) for n in range(1, 9)], "was not a finite number: 8."),
        ([{"step": 0, "stage": "a", "validation_loss": 1.0}], "1.0000"),
        ([{"step": 0, "stage": "pretrain", "validation_loss": 4.0}, step(1), step(2)], "4.0000"),
        ([step(1, seconds=0.0, tokens=0, waited=0.0)], "No samples were written."),
        ([step(1, rate_Muon=0.0, odd_measure=7)], "odd measure"),
        ([step(1, **{"<b>": 1.0, "validation_<i>": 2.0})], "<i>"),
        ([step(n, f"s{n}") for n in range(1, 13)], "s12"),
    ],
)  # fmt: skip
def test_odd_runs(tmp_path: Path, lines: list[dict[str, Any]], said: str) -> None:
    document = report(read_run(write_run(tmp_path, lines)), 0.0)
    found = Page(page(document))
    assert found.headings == SECTIONS
    assert said in found.text
    assert "No checkpoint is there yet" in found.text
    assert markdown(document).count("\n## ") == len(SECTIONS)


def test_a_stage_to_come_is_named(tmp_path: Path) -> None:
    stages = [{"name": "pretrain"}, {"name": "sft"}]
    document = report(read_run(write_run(tmp_path, [step(1)], stages=stages)))
    assert table(document, "Stages")[-1][:2] == ["sft", "not begun"]


def test_checkpoints_tell_memory_and_environment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run", [step(1), step(2, "sft")])
    checkpoints = CheckpointDir(run / "checkpoints")
    checkpoints.prepare()
    for number, stage in ((1, "pretrain"), (2, "sft")):
        state = {"micro_batch": 4, "precision": {"name": "fp32"}}
        checkpoints.save(CheckpointContents(Lookup(), stage=stage, step=number, state=state))
    document = report(read_run(run))
    (tiles,) = (b for b in section(document, "At a glance").blocks if isinstance(b, Tiles))
    assert dict(tiles.tiles)["parameters"] == "66k"
    pretrain = dict(zip(*table(document, "Memory and throughput")[:2], strict=True))
    assert pretrain["micro-batch"] == "4 rows"
    assert pretrain["precision"] == "fp32"
    assert pretrain["weights"].endswith("KiB")
    assert "host" in pretrain["most memory so far"]
    told = dict(table(document, "Environment")[1:])  # type: ignore[arg-type]
    assert told["python"]
    assert told["deterministic"] == "no"
    assert "torch" in told["packages"]
    (run / "checkpoints" / "00000002-sft" / "model.safetensors").write_bytes(b"")
    assert "66k" in page(report(read_run(run))), "of the last one that is whole"
    assert "left out" in caplog.text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder; give a run's folder"):
        read_run(tmp_path / "gone")
    with pytest.raises(DataError, match=r"there is no metrics.jsonl with a step in it"):
        read_run(tmp_path)
    write_run(tmp_path / "run", [step(1)])
    (tmp_path / "run" / "experiment.json").write_text("{")
    with pytest.raises(DataError, match=r"experiment.json cannot be read"):
        read_run(tmp_path / "run")
