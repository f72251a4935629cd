"""Bad inputs: each ends in one line that says what is wrong and where, with the right exit code,
before anything is written; never in a traceback, and never as if all were well.

A row is a mistake as a user makes it. Most run through `lmkit.cli.main` in this process, a dozen
through a process of their own.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Outcome, Project
from tests.faults.conftest import count

COMMANDS = ("check", "train")[: count(1, 2)]
pytestmark = pytest.mark.timeout(120)  # against a hang; each takes a fraction of a second


def assert_told(outcome: Outcome, code: int, *words: str) -> None:
    """One line, one exit code."""
    assert outcome.code == code, outcome.err
    for word in words:
        assert word in outcome.error, outcome.error
    assert outcome.out == ""
    others = [line for line in outcome.err.splitlines() if not line.startswith("error: ")]
    assert all(line.startswith("warning: ") for line in others), outcome.err


# --- the YAML (C1-C10) ----------------------------------------------------------------------------

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
WHOLE_FILES = {
    "nothing": (b"", "the file is empty"),
    "a comment": (b"# nothing yet\n", "the file is empty"),
    "null": (b"~\n", "the file is empty"),
    "a list": (b"- name: x\n", "must be a mapping"),
    "a word": (b"name\n", "must be a mapping"),
    "a number": (b"3\n", "must be a mapping"),
    "a tab": (b"name: x\nmodel:\n\tclass: y\n", "indent with spaces"),
    "latin-1": ("name: caf\u00e9\n".encode("latin-1"), "not UTF-8"),
    "utf-16": ("name: x\n".encode("utf-16"), "not UTF-8"),
    "a NUL": (b"name: x\0y\n", "U+0000"),
    "an escape": (b"name: x\x1by\n", "U+001B"),
    "two documents": (b"name: x\n---\nname: y\n", "document"),
    "deep lists": (b"a: " + b"[" * 2000, "nested too deeply"),
    "deep mappings": (b"a: " + b"{a: " * 2000, "nested too deeply"),
    "deep lines": (b"".join(b" " * n + b"a:\n" for n in range(300)), "nested too deeply"),
    "deep dashes": (b"- " * 2000 + b"x", "nested too deeply"),
    "a billion laughs": (LAUGHS.encode(), "unfold to more than"),
    "an alias inside itself": (b"a: &a [*a]\n", "inside itself"),
    "a mapping inside itself": (b"a: &a {b: *a}\n", "inside itself"),
    "a merge of itself": (b"a: &a\n  <<: *a\n", "inside itself"),
    "an unknown alias": (b"a: *b\n", "undefined alias"),
    "too many values": (b"a: [" + b"1, " * 50_000 + b"1]\n", "more than"),
    "too large": (b"# " + b"x" * 300_000, "KiB"),
    "a tag that calls": (b"a: !!python/object/apply:os.system [true]\n", "tag"),
    "a tag that names": (b"a: !!python/name:os.system\n", "tag"),
    "a tag that makes": (b"a: !!python/object/new:subprocess.Popen [[true]]\n", "tag"),
    "a tag for a module": (b"a: !!python/module:os\n", "tag"),
    "binary": (b"a: !!binary aGk=\n", "tag"),
    "a set": (b"a: !!set {x}\n", "tag"),
    "a tag of one's own": (b"a: !mine x\n", "tag"),
    "a merge of a list": (b"<<: [1]\n", "merges mappings only"),
    "a key that is a list": (b"[1]: x\n", "plain word"),
    "a bracket open": (b"a: [1, 2\n", ":"),
    "a quote open": (b"a: 'x\n", ":"),
    "a bad escape": (b'a: "\\q"\n', "escape"),
    "no character": (b'a: "\\UFFFFFFFF"\n', "character"),
    "half a surrogate": (b'a: "\\ud800"\n', "surrogate"),
    "a percent": (b"%x\n", ":"),
    "an at": (b"@x: 1\n", "cannot start"),
    "bytes": (bytes(range(256)), "UTF-8"),
    "zeros": (bytes(1000), "U+0000"),
    "extends nothing": (b"extends: none.yaml\n", "there is no file"),
    "extends itself": (b"extends: tiny.yaml\n", "extends itself"),
    "extends a folder": (b"extends: .\n", "is not a file"),
    "extends a number": (b"extends: 3\n", "must name one file"),
    "extends a device": (b"extends: /dev/zero\n", "is not a file"),
    "only a name": (b"name: x\n", "needs"),
}


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_a_file_that_is_no_experiment(project: Project, name: str) -> None:
    content, said = WHOLE_FILES[name]
    project.yaml.write_bytes(content)
    for command in COMMANDS:
        assert_told(project.lmkit(command, project.yaml), 2, str(project.yaml), said)


KEYS = [
    ("name: tiny", "name: ../up", "cannot name a run"),
    ("name: tiny", "name: ''", "cannot name a run"),
    ("name: tiny", "name: [a]", "name must be a string"),
    ("name: tiny", "name: 3", "name must be a string"),
    ("name: tiny", "name: no", "name must be a string"),
    ("name: tiny", "nmae: tiny", "takes no 'nmae'; did you mean 'name'?"),
    ("name: tiny", "name: tiny\nseed: -1", "seed must be at least 0"),
    ("name: tiny", "name: tiny\nseed: 1.5", "seed must be an integer"),
    ("name: tiny", "name: tiny\nseed: 99999999999999999999", "seed must be an integer"),
    ("name: tiny", "name: tiny\nimports: no_such_module", "no_such_module"),
    ("name: tiny", "name: tiny\nimports: [3]", "must be a string"),
    ("steps: 4", "steps: 0", "steps must be at least 1"),
    ("steps: 4", "steps: -3", "steps must be at least 1"),
    ("steps: 4", "steps: .nan", "steps must be an integer"),
    ("steps: 4", "steps: 1e400", "too large"),
    ("steps: 4", "steps: 010", "octal"),
    ("steps: 4", "steps: 12:30", "steps must be an integer"),
    ("steps: 4", "steps: [4]", "steps must be an integer"),
    ("steps: 4", "steps: {a: 4}", "steps must be an integer"),
    ("steps: 4", "steps:", "it has no length"),
    ("steps: 4", "steps: 4\n    tokens: 5", "exclude each other"),
    ("steps: 4", "epochs: -1", "epochs must be above 0"),
    ("steps: 4", "epochs: .inf", "epochs must be"),
    ("steps: 4", "steps: 4\n    steps: 5", "comes twice"),
    ("  batch_size: 2", "  batch_size: 0", "batch_size must be at least 1"),
    ("  batch_size: 2", "  batch_size: '2'x", ":"),
    ("  batch_size: 2", "  batch_size: yes", "batch_size must be an integer"),
    ("  batch_size: 2", "  batch_size: 2\n    batch_tokens: 32", "exclude each other"),
    ("  batch_size: 2", "  batch_size: 2\n    clip: 0", "clip must be above 0"),
    ("  batch_size: 2", "  batch_size: 2\n    clip: -1e-3", "clip must be above 0"),
    ("  batch_size: 2", "  batch_size: 2\n    lr_scale: 0", "lr_scale must be above 0"),
    ("  batch_size: 2", "  batch_size: 2\n    freeze: 3", "freeze must be"),
    ("  batch_size: 2", "  batch_size: 2\n    freeze: [nothing.*]", "no parameter is meant"),
    ("  batch_size: 2", "  batch_size: 2\n    optimizers: []", "there are no optimizers"),
    ("  batch_size: 2", "  batch_size: 2\n    optimizers: [{class: torch.optim.AdamW, lr: -1}]",
     "learning rate"),
    ("  batch_size: 2", "  batch_size: 2\n    optimizers: [{class: torch.optim.AdmaW, lr: 1}]",
     "did you mean 'AdamW'?"),
    ("  batch_size: 2", "  batch_size: 2\n    optimizers: [{class: os.system, lr: 1}]", "system"),
    ("  batch_size: 2", "  batch_size: 2\n    optimizers:\n      - {class: torch.optim.SGD, "
     "lr: 1e-2, params: [nowhere]}", "nowhere"),
    ("  batch_size: 2", "  batch_size: 2\n    optimizer_state: inherit", "is the first"),
    ("  batch_size: 2", "  batch_size: 2\n    optimizer_state: keep", "'fresh' or 'inherit'"),
    ("  batch_size: 2", "  batch_size: 2\n    schedule: {class: lmkit.optim.schedule.Warmup}",
     "has no 'Warmup'"),
    ("  batch_size: 2", "  batch_size: 2\n    schedule: {class: builtins.eval}", "eval"),
    ("  batch_size: 2", "  batch_size: 2\n    objective: {class: lmkit.rl.grpo.GPRO}",
     "did you mean 'GRPO'?"),
    ("  batch_size: 2", "  batch_size: 2\n    init_from: pretrain", "not before it"),
    ("{tokens: 64}", "{tokens: 0}", "tokens must be at least 1"),
    ("{tokens: 64}", "{tokens: 64, tasks: [no_such_task]}", "no_such_task"),
    ("{tokens: 64}", "{tokens: 64, tasks: [{class: os.system}]}", "os.system"),
    ("{tokens: 64}", "{tokens: 64, samples: {a: b}}", "samples must be"),
    ("{every: 2}", "{every: -1}", "every must be at least 0"),
    ("{every: 2}", "{keep: 1}", "keep must be at least 2"),
    ("{every: 2}", "{best: nothing}", "'nothing'"),
    ("{every: 2}", "[every]", "checkpoint must be"),
    ("name: pretrain", "name: 'a/b'", "cannot name a stage"),
    ("name: pretrain", "name: '12'", "cannot name a stage"),
    ("runner: {device: cpu,", "runner: {device: cpu, threads: 0,", "threads must be at least 1"),
    ("max_batch_size: 2", "max_batch_size: many", "max_batch_size must be"),
    ("model: {class: my_model.Table}", "model: {}", "model must be a class"),
    ("model: {class: my_model.Table}", "model: [my_model.Table]", "model must be"),
    ("model: {class: my_model.Table}", "model: 5", "model must be"),
    ("model: {class: my_model.Table}", "model: {class: 5}", "'class' must be a name"),
    ("model: {class: my_model.Table}", "model: my model.Table", "is not a name"),
    ("model: {class: my_model.Table}", "model: os.system", "os.system"),
    ("model: {class: my_model.Table}", "model: builtins.exit", "builtins.exit"),
    ("model: {class: my_model.Table}", "model: {class: builtins.eval, source: '1'}", "eval"),
    ("model: {class: my_model.Table}", "model: {class: subprocess.Popen, args: 'true'}", "Popen"),
    ("model: {class: my_model.Table}", "model: {class: math.pi}", "is not a class"),
    ("model: {class: my_model.Table}", "model: {class: my_model}", "'my_model'"),
    ("model: {class: my_model.Table}", "model: {class: gtp}", "'gtp'"),
    ("tokenizer: lmkit.text.tokenizer.Byte", "tokenizer:", "tokenizer must be"),
]  # fmt: skip


@pytest.mark.parametrize("row", range(len(KEYS)))
def test_a_value_that_cannot_be(project: Project, row: int) -> None:
    old, new, said = KEYS[row]
    project.rewrite(old, new)
    for command in COMMANDS:
        assert_told(project.lmkit(command, project.yaml), 2, "tiny.yaml", said)
        assert not project.run.exists()


def test_a_learning_rate_may_be_written_as_everybody_does(project: Project) -> None:
    optimizers = "    optimizers: [{class: torch.optim.SGD, lr: 1e-4}]"
    project.rewrite("    steps: 4", f"{optimizers}\n    steps: 4")
    assert project.lmkit("check", project.yaml).code == 0


OVERRIDES = [
    ("=", "it sets nothing"),
    ("seed", "it sets nothing"),
    ("stages=[]", "there are no stages"),
    ("stages=3", "stages must be"),
    ("runner=[1]", "runner must be"),
    ("tokenizer=torch.nn.GELU", "a GELU is no tokenizer"),
    ("runner.device=gpu", "device 'gpu' is unknown"),
    ("runner.max_batch_size=0", "less than one row"),
    ("seed==3", "seed must be an integer"),
    ("seed=[", "override 'seed=['"),
    ("seed=!!python/name:os.system", "tag"),
    ("sead=3", "did you mean 'seed'?"),
    ("stages.9.steps=3", "stages has no '9'"),
    ("stages.pretrian.steps=3", "did you mean 'pretrain'?"),
    ("stages.pretrain.steps.x=3", "it has no parts"),
    ("name.x=3", "name must be a string"),
    (".seed=3", "it sets nothing"),
    ("seed=\x00", "U+0000"),
    ("seed=" + "[" * 1000, "nested too deeply"),
]


@pytest.mark.parametrize(("text", "said"), OVERRIDES)
def test_an_override_that_leads_nowhere(project: Project, text: str, said: str) -> None:
    outcome = project.lmkit("check", project.yaml, text)
    assert outcome.code == 2, outcome.err
    assert said in outcome.error


# --- data (D1-D11) --------------------------------------------------------------------------------

TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "white": (b" \n\n\t\n", "there is no training text"),
    "too short": (b"a few words", "tokens are less than a row"),
    "binary": (bytes(range(256)) * 20, "not utf-8 text"),
    "a NUL": (b"a\0b" * 500, "a NUL"),
    "utf-16": (("words " * 500).encode("utf-16"), "not utf-8 text"),
    "latin-1": (("caf\u00e9 " * 500).encode("latin-1"), "not utf-8 text"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_none(project: Project, name: str) -> None:
    content, said = TEXTS[name]
    (project.folder / "text.txt").write_bytes(content)
    for command in COMMANDS:
        assert_told(project.lmkit(command, project.yaml), 2, said)
        assert not project.run.exists()


GOOD = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
LINES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{messages:", "not JSON"),
    "cut": (GOOD[:30], "not JSON"),
    "a list": (b"[1]", "not an object"),
    "a number": (b"12", "not an object"),
    "NaN alone": (b"NaN", "not an object"),
    "deep": (b"[" * 100_000, "not JSON"),
    "a long number": (b'{"text": ' + b"1" * 5000 + b"}", ":"),
    "not UTF-8": (b'{"text": "\xff\xfe"}', "not JSON"),
    "half a surrogate": (GOOD.replace(b'"b"', b'"\\ud800"'), "surrogate"),
    "no column": (b'{"body": "x"}', "no column is a prompt"),
    "a number for a text": (b'{"text": 3}', "not a string"),
    "null": (b'{"text": null}', "missing"),
    "two shapes": (b'{"text": "a", "prompt": "b", "truth": "c"}', "two shapes"),
    "no messages": (b'{"messages": []}', "not empty"),
    "messages of another kind": (b'{"messages": "hello"}', "must be a list"),
    "messages of texts": (b'{"messages": ["hello"]}', "exactly 'role' and 'content'"),
    "no role": (b'{"messages": [{"content": "a"}]}', "exactly 'role' and 'content'"),
    "one key more": (
        b'{"messages": [{"role": "user", "content": "a", "name": "b"}]}', "exactly 'role' and"),
    "a role of one's own": (b'{"messages": [{"role": "usr", "content": "a"}]}', "'user'?"),
    "the assistant first": (b'{"messages": [{"role": "assistant", "content": "a"}]}', "expected"),
    "two users": (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}',
        "expected the assistant's"),
    "an empty answer": (GOOD.replace(b'"b"', b'""'), "empty"),
    "a number said": (GOOD.replace(b'"b"', b"3"), "not a string"),
    "an unknown part": (
        GOOD.replace(b'"b"', b'[{"type": "image", "text": "x"}]'), "a part has the type"),
    "a part that is a text": (GOOD.replace(b'"b"', b'["x"]'), "exactly 'type' and 'text'"),
    "a tool's output alone": (
        GOOD.replace(b'"b"', b'[{"type": "python_output", "text": "x"}]'), "without a call"),
    "a user's call": (
        GOOD.replace(b'"a"', b'[{"type": "python", "text": "x"}]'), "only the assistant"),
    "half a preference": (b'{"prompt": "a", "chosen": "b"}', "lacks 'rejected'"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_line_that_is_no_sample(project: Project, name: str) -> None:
    line, said = LINES[name]
    file = project.folder / "lines.jsonl"
    file.write_bytes(GOOD * 9 + line + b"\n" + GOOD * 9)
    project.rewrite("sources.TextFiles, path: text.txt", "sources.JsonLines, path: lines.jsonl")
    outcome = project.lmkit("train", project.yaml)
    assert_told(outcome, 2, f"{file}:10", said)
    assert not project.run.exists()


def test_lines_that_are_no_samples_can_be_passed_over_and_are_counted(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (line.strip() for line, _ in LINES.values())
    bad = b"\n".join(line for line in lines if b"ud800" not in line)
    (project.folder / "lines.jsonl").write_bytes(GOOD * 20 + bad + b"\n")
    project.rewrite(
        "sources.TextFiles, path: text.txt", "sources.JsonLines, path: lines.jsonl, on_error: skip"
    )
    outcome = project.lmkit("train", project.yaml)
    assert outcome.code == 0, outcome.err
    assert f"{bad.count(bytes([10])) + 1} rows left out" in caplog.text


SHARDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "one is missing": (lambda f: (f / "a_001.bin").unlink(), "1 shards are missing"),
    "one is empty": (lambda f: (f / "a_001.bin").write_bytes(b""), "the file is empty"),
    "one has an odd length": (lambda f: (f / "a_001.bin").write_bytes(bytes(1001)), "1,001 bytes"),
    "an id that is none": (
        lambda f: np.full(500, 999, np.uint16).tofile(f / "a_001.bin"), "999"),
    "a header that lies": (
        lambda f: np.array([20240520, 1, 10**9] + [0] * 600, np.int32).tofile(f / "a_001.bin"),
        "by its header"),
    "a header below zero": (
        lambda f: np.array([20240520, 1, -5] + [0] * 600, np.int32).tofile(f / "a_001.bin"),
        "by its header"),
    "none is there": (lambda f: list(map(os.unlink, f.iterdir())), "the folder has no file"),
    "another file between": (lambda f: (f / "README").write_text("words " * 3), "README"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_cannot_be_read(project: Project, name: str) -> None:
    spoil, said = SHARDS[name]
    shards = project.folder / "shards"
    shards.mkdir()
    for number in range(3):
        ids = np.r_[256, np.arange(999) % 256].astype(np.uint16)
        ids.tofile(shards / f"a_{number:03}.bin")
    spoil(shards)
    source = "{class: lmkit.data.shards.TokenShards, path: shards}"
    project.rewrite("{class: lmkit.data.sources.TextFiles, path: text.txt, holdout: 0.25}", source)
    project.rewrite("    evaluate: {tokens: 64}\n", "    evaluate: {bits_per_byte: false}\n")
    outcome = project.lmkit("train", project.yaml)
    assert_told(outcome, 2, "shards", said)
    assert not project.run.exists()


SOURCES = [
    ("path: text.txt", "path: nowhere", "no such file or folder"),
    ("path: text.txt", "path: '*.text'", "no file matches"),
    ("path: text.txt", "path: []", "empty list"),
    ("path: text.txt", "path: 3", "path must be"),
    ("path: text.txt", "path: ''", "path is empty"),
    ("path: text.txt", "path: text.txt, encoding: utf-9", "no encoding 'utf-9'"),
    ("path: text.txt", "path: text.txt, encoding: 3", "encoding must be"),
    ("holdout: 0.25", "holdout: 1", "it is a share"),
    ("holdout: 0.25", "holdout: -0.1", "it is a share"),
    ("holdout: 0.25", "holdout: .nan", "holdout must be"),
    ("lmkit.data.sources.TextFiles, path: text.txt", "lmkit.data.sources.InMemory, prompts: []",
     "the list of prompts is empty"),
    ("lmkit.data.sources.TextFiles, path: text.txt", "lmkit.data.sources.InMemory, prompts: [3]",
     "prompts.0 must be"),
    ("lmkit.data.sources.TextFiles, path: text.txt", "lmkit.data.sources.JsonLines, path: text.txt",
     "not JSON"),
    ("lmkit.data.sources.TextFiles, path: text.txt", "lmkit.data.sources.Parquet, path: text.txt",
     "Parquet"),
    ("lmkit.data.sources.TextFiles, path: text.txt", "builtins.open, file: text.txt", "open"),
]  # fmt: skip


@pytest.mark.parametrize("row", range(len(SOURCES)))
def test_a_source_that_gives_nothing(project: Project, row: int) -> None:
    old, new, said = SOURCES[row]
    project.rewrite(old, new)
    assert_told(project.lmkit("train", project.yaml), 2, said)
    assert not project.run.exists()


@pytest.mark.parametrize("name", ["cut", "no gzip", "empty"])
def test_a_packed_file_that_is_damaged(project: Project, name: str) -> None:
    import gzip

    packed = gzip.compress(GOOD * 300)
    content = {"cut": packed[: len(packed) // 2], "no gzip": b"words " * 99, "empty": b""}[name]
    (project.folder / "lines.jsonl.gz").write_bytes(content)
    project.rewrite("sources.TextFiles, path: text.txt", "sources.JsonLines, path: lines.jsonl.gz")
    assert_told(project.lmkit("train", project.yaml), 2, "lines.jsonl.gz")


def test_a_document_of_nothing_but_spaces_and_names_of_tokens(project: Project) -> None:
    """D9: prepared, and no text becomes a special token."""
    (project.folder / "text.txt").write_text("<|endoftext|>" * 9 + " " * 1_200_000 + "x " * 999)
    tokenizer = "{class: lmkit.text.tokenizer.Tiktoken, name: python4k}"
    project.rewrite("lmkit.text.tokenizer.Byte", tokenizer)
    project.rewrite("257", "5000", "my_model.py")
    assert project.lmkit("check", project.yaml).code == 0


# --- tokenizers (T1-T4) ---------------------------------------------------------------------------


def ranks(**changes: bytes) -> bytes:
    """A ranks file of the 256 bytes; a line may be another: `n5=b"..."`."""
    lines = [base64.b64encode(bytes([n])) + b" %d" % n for n in range(256)]
    for name, line in changes.items():
        lines[int(name[1:])] = line
    return b"\n".join(lines) + b"\n"


RANKS: dict[str, tuple[bytes | None, str, str]] = {
    "there is none": (None, "", "cannot read the ranks file"),
    "empty": (b"", "", "256 of the 256 single bytes"),
    "bytes": (bytes(range(256)), "", "not a token in base64"),
    "cut": (ranks()[: ranks().index(b"cA==")], "", "single bytes have no rank"),
    "cut in a line": (ranks()[: ranks().index(b"cA==") + 2], "", "not a token in base64"),
    "no rank": (ranks(n7=b"Bw=="), "", "not a token in base64"),
    "a rank below zero": (ranks(n7=b"Bw== -7"), "", "not a token in base64"),
    "a rank far away": (ranks(n7=b"Bw== 99999999999"), "", "have ranks up to"),
    "a rank of 5,000 digits": (ranks(n7=b"Bw== " + b"9" * 5000), "", "not a token in base64"),
    "a rank twice": (ranks(n7=b"Bw== 8"), "", "comes twice"),
    "a token twice": (ranks(n7=b"CA== 7"), "", "comes twice"),
    "no base64": (ranks(n7=b"B=w= 7"), "", "not a token in base64"),
    "a pattern that is none": (ranks(), ", pattern: '('", "the split pattern is wrong"),
    "a pattern that loses text": (ranks(), r", pattern: '\p{L}+'", "skips some characters"),
    "a special token on a rank": (ranks(), ", special_tokens: {'<|x|>': 3}", "ids of their own"),
    "a special token far away": (ranks(), ", special_tokens: {'<|x|>': 2000000}", "ids of their"),
    "a special token below zero": (ranks(), ", special_tokens: {'<|x|>': -3}", "ids of their own"),
    "a template that is none": (ranks(), ", chat: nanochatt", "did you mean 'nanochat'?"),
    "a template that is wrong": (ranks(), ", chat: '{% if %}'", "the chat template"),
    "a template that escapes": (
        ranks(), ", chat: \"{{ ''.__class__.__mro__[1].__subclasses__() }}\"", "chat template"),
    "two at once": (ranks(), ", name: gpt2", "not both"),
}  # fmt: skip


@pytest.mark.parametrize("name", RANKS)
def test_a_vocabulary_that_cannot_be(project: Project, name: str) -> None:
    content, more, said = RANKS[name]
    if content is not None:
        (project.folder / "r.tiktoken").write_bytes(content)
    line = f"{{class: lmkit.text.tokenizer.Tiktoken, ranks: r.tiktoken{more}}}"
    project.rewrite("lmkit.text.tokenizer.Byte", line)
    assert_told(project.lmkit("train", project.yaml), 2, said)
    assert not project.run.exists()


def test_a_vocabulary_of_no_name_and_one_that_is_not_here(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokenizer = "tokenizer={{class: lmkit.text.tokenizer.Tiktoken, name: {}}}"
    outcome = project.lmkit("check", project.yaml, tokenizer.format("gpt3"))
    assert_told(outcome, 2, "there is no vocabulary 'gpt3'; did you mean 'gpt2'?")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens
    outcome = project.lmkit("check", project.yaml, tokenizer.format("p50k_base"))
    assert_told(outcome, 2, "cannot download the vocabulary 'p50k_base'", "TIKTOKEN_CACHE_DIR")


# --- plug-ins (P1-P5) -----------------------------------------------------------------------------

PLUGINS = {
    "is missing": (None, "there is no module"),
    "needs another": ("import no_such_package\n", "needs no_such_package, which is not installed"),
    "is no Python": ("class Table(:\n", "SyntaxError"),
    "is indented wrongly": ("x = 1\n  y = 2\n", "IndentationError"),
    "is not UTF-8": ("# \udcff\nx = '\udcff'\n", "SyntaxError"),
    "holds a NUL": ("x = '\0'\n", "Error"),
    "raises": ("raise KeyError('x')\n", "KeyError"),
    "leaves": ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
    "leaves quietly": ("raise SystemExit\n", "SystemExit"),
    "runs out of stack": ("def f(): f()\nf()\n", "RecursionError"),
    "has no such class": ("class Tabel: pass\n", "did you mean 'Tabel'?"),
    "has a number there": ("Table = 3\n", "is not a class"),
    "has no model there": ("class Table: pass\n", "is no language model"),
    "has a function that gives none": ("def Table(): return None\n", "is no language model"),
    "fails when it is made": (
        "from lmkit import LMBase\nclass Table(LMBase):\n    def __init__(self): 1 / 0\n",
        "ZeroDivisionError"),
    "leaves when it is made": (
        "from lmkit import LMBase\nclass Table(LMBase):\n"
        "    def __init__(self): raise SystemExit(0)\n", "SystemExit"),
    "forgets its base": (
        "from lmkit import LMBase\nclass Table(LMBase):\n    def __init__(self): pass\n", "Table"),
    "wants what nobody gives": (
        "from lmkit import LMBase\nclass Table(LMBase):\n    def __init__(self, width): pass\n",
        "width"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_that(project: Project, name: str) -> None:
    source, said = PLUGINS[name]
    file = project.folder / "plug.py"
    if source is not None:
        file.write_text(source, encoding="utf-8", errors="surrogateescape")
    project.rewrite("my_model.Table", "plug.Table")
    outcome = project.lmkit("check", project.yaml)
    assert outcome.code == 2, outcome.err
    *above, last = outcome.err.splitlines()
    assert last.startswith("error: ")
    assert said in last
    assert not any("lmkit/cli" in line for line in above)
    sys.modules.pop("plug", None)


FORWARDS = {
    "gives a shape too many": ("self.embedding(tokens)[None]", "logits of shape"),
    "gives a row too few": ("self.embedding(tokens)[:, :1]", "logits of shape"),
    "gives whole numbers": ("self.embedding(tokens).long()", "int64"),
    "gives nothing": ("None", "NoneType"),
    "gives a text": ("'logits'", "gave a str"),
    "gives no gradient": ("self.embedding(tokens).detach()", "grad"),
    "raises": ("1 / 0", "ZeroDivisionError"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_a_forward_that(project: Project, name: str) -> None:
    source, said = FORWARDS[name]
    project.rewrite("return self.embedding(tokens)", f"return {source}", "my_model.py")
    outcome = project.lmkit("train", project.yaml)
    assert outcome.code == 2, outcome.err
    assert said in outcome.err.splitlines()[-1]
    assert not list(project.run.glob("checkpoints/*"))


# --- generation (G1-G3) ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for inference, of a model in the zoo."""
    from lmkit.text import Byte
    from lmkit.train.loading import save_for_inference
    from lmkit_models.mlp import MLP

    model = MLP(tokenizer=Byte(), embedding_dim=2, window=2, nodes=4, layers=1, max_len=8)
    return save_for_inference(model, tmp_path_factory.mktemp("c") / "model", {"name": "x"})


FLAGS = [
    *(("--temperature", text) for text in ("-1", "nan", "inf", "hot", "", "-1e-45")),
    *(("--top-p", text) for text in ("0", "2", "-0.1", "nan", "x")),
    *(("--top-k", text) for text in ("0", "-1", "1.5", "x")),
    *(("--min-p", text) for text in ("-1", "1.1", "nan")),
    *(("--repetition-penalty", text) for text in ("0", "-1", "nan", "inf")),
    *(("--max-new-tokens", text) for text in ("0", "-1", "x", "1e9", "true")),
    ("--stop", ""),
    ("--stop-id", "-1"),
    ("--stop-id", "x"),
    ("--samples", "0"),
    ("--samples", "-1"),
    ("--seed", "x"),
    ("--batch-size", "0"),
    ("--lookup", "-1"),
    ("--precision", "fp4"),
    ("--temprature", "1"),
    ("--trust-code", "now"),
]


@pytest.mark.parametrize(("flag", "value"), FLAGS)
def test_a_flag_with_a_value_that_cannot_be(
    project: Project, trained: Path, flag: str, value: str
) -> None:
    outcome = project.lmkit("generate", trained, "-p", "a", f"{flag}={value}")
    assert_told(outcome, 2, flag)


def test_a_device_that_is_none(project: Project, trained: Path) -> None:
    assert_told(project.lmkit("generate", trained, "--device=gpu"), 2, "device 'gpu' is unknown")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-t", "1e-45"], ""),
        (["-t", "1e308"], ""),
        (["-t", "0", "-p", ""], ""),
        (["-p", "x" * 1000], "x" * 1000),
        (["-p", "<|endoftext|>"], "<|endoftext|>"),
        (["--top-k", "999999"], ""),
    ],
)
def test_a_value_at_the_edge_is_none(
    project: Project, trained: Path, words: list[str], said: str
) -> None:
    outcome = project.lmkit("generate", trained, "-n", "3", *words)
    assert outcome.code == 0, outcome.err
    assert said in outcome.out


def test_a_checkpoint_whose_weights_are_not_finite_writes_nothing(
    project: Project, tmp_path: Path
) -> None:
    import torch

    from lmkit.text import Byte
    from lmkit.train.loading import save_for_inference
    from lmkit_models.mlp import MLP

    model = MLP(tokenizer=Byte(), embedding_dim=2, window=2, nodes=4, layers=1, max_len=8)
    torch.nn.init.constant_(model.head.weight, float("nan"))
    folder = save_for_inference(model, tmp_path / "nan", {"name": "x"})
    for words in ([], ["-t", "0"]):
        outcome = project.lmkit("generate", folder, "-n", "3", *words)
        assert outcome.code == 4, outcome.err
        assert "error: " in outcome.err
        assert "Traceback" not in outcome.err


# --- checkpoints ----------------------------------------------------------------------------------


def rewritten(folder: Path, name: str, content: object) -> None:
    """As a stranger would alter it: the manifest fits."""
    from lmkit.checkpoints.manifest import Manifest

    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / name).write_bytes(text)
    (folder / "manifest.json").unlink()
    Manifest.write(folder)


def header(content: object, data: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
TENSORS = {
    "nothing": b"",
    "seven bytes": b"1234567",
    "a length beyond the file": struct.pack("<Q", 2**63) + b"{}",
    "a length just beyond": struct.pack("<Q", 3) + b"{}",
    "no JSON": header(b"{"),
    "not UTF-8": header(b'{"\xff": 1}'),
    "a list": header([]),
    "deep": header(b"[" * 10_000),
    "a name twice": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "no entry": header({"a": None}),
    "a key too few": header({"a": {"dtype": "F32", "shape": []}}),
    "a key too many": header({"a": {**F32, "x": 1}}, bytes(4)),
    "an unknown dtype": header({"a": {**F32, "dtype": "F33"}}, bytes(4)),
    "a dtype that is a list": header({"a": {**F32, "dtype": ["F32"]}}, bytes(4)),
    "a shape below zero": header({"a": {**F32, "shape": [-1, -1]}}, bytes(4)),
    "a shape of truth": header({"a": {**F32, "shape": [True]}}, bytes(4)),
    "a shape of fractions": header({"a": {**F32, "shape": [1.0]}}, bytes(4)),
    "a shape too large": header({"a": {**F32, "shape": [2**62, 2**62]}}, bytes(4)),
    "a shape that wraps around": header({"a": {**F32, "shape": [2**62, 4, 2**60]}}, bytes(4)),
    "a shape of 65 dimensions": header({"a": {**F32, "shape": [1] * 65}}, bytes(4)),
    "offsets the wrong way": header({"a": {**F32, "data_offsets": [4, 0]}}, bytes(4)),
    "offsets beyond": header({"a": {**F32, "data_offsets": [0, 2**40]}}, bytes(4)),
    "one offset": header({"a": {**F32, "data_offsets": [4]}}, bytes(4)),
    "an overlap": header({"a": F32, "b": F32}, bytes(4)),
    "a hole": header({"a": {**F32, "data_offsets": [4, 8]}}, bytes(8)),
    "bytes left over": header({"a": F32}, bytes(5)),
    "bytes too few": header({"a": F32}, bytes(3)),
    "metadata of numbers": header({"__metadata__": {"ties": 3}, "a": F32}, bytes(4)),
    "ties that are no JSON": header({"__metadata__": {"ties": "{"}, "a": F32}, bytes(4)),
    "ties to nothing": header({"__metadata__": {"ties": '{"b": "c"}'}, "a": F32}, bytes(4)),
    "ties of a name that is there": header(
        {"__metadata__": {"ties": '{"a": "a"}'}, "a": F32}, bytes(4)),
    "another model's": header({"a": F32}, bytes(4)),
    "no tensor": header({}),
    "a pickle": b"\x80\x04\x95" + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_weights_that_are_none(project: Project, trained: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(trained, tmp_path)
    rewritten(folder, "model.safetensors", TENSORS[name])
    outcome = project.lmkit("generate", folder)
    assert_told(outcome, 3, "model.safetensors")


MODEL = {"class": "lmkit_models.mlp.MLP"}
JSONS: list[tuple[str, object, int, str]] = [
    ("experiment.json", b"", 3, "damaged"),
    ("experiment.json", b"\xff", 3, "damaged"),
    ("experiment.json", b"[" * 100_000, 3, "damaged"),
    ("experiment.json", [], 3, "damaged"),
    ("experiment.json", {}, 3, "names no model"),
    ("experiment.json", {"model": []}, 3, "names no model"),
    ("experiment.json", {"model": {}}, 2, "a class is to be named"),
    ("experiment.json", {"model": {"class": 3}}, 2, "'class' must be a name"),
    ("experiment.json", {"model": {"class": "no_such.Model"}}, 2, "no_such"),
    ("experiment.json", {"model": {"class": "lmkit.no.Model"}}, 2, "lmkit"),
    ("experiment.json", {"model": {**MODEL, "nodse": 3}}, 2, "did you mean 'nodes'?"),
    ("experiment.json", {"model": {**MODEL, "nodes": "many"}}, 2, "nodes must be"),
    ("experiment.json", {"model": MODEL, "imports": 3}, 3, "imports"),
    ("experiment.json", {"model": MODEL, "imports": [3]}, 3, "imports"),
    ("experiment.json", {"model": MODEL, "imports": ["no_such_module"]}, 2, "no_such_module"),
    ("tokenizer/tokenizer.json", b"", 3, "damaged"),
    ("tokenizer/tokenizer.json", [], 3, "damaged"),
    ("tokenizer/tokenizer.json", {}, 2, "not a saved tokenizer"),
    ("tokenizer/tokenizer.json", {"class": "lmkit.text.tokenizer.Byte", "settings": [],
                                  "fingerprint": ""}, 2, "not a saved tokenizer"),
    ("tokenizer/tokenizer.json", {"class": "lmkit.text.tokenizer.Byte", "settings": {},
                                  "fingerprint": "0"}, 2, "is not the one that was saved"),
    ("code/sources.json", {"sources": [{"module": "x"}]}, 3, "damaged"),
]  # fmt: skip


@pytest.mark.parametrize("row", range(len(JSONS)))
def test_a_checkpoints_json_that_is_wrong(
    project: Project, trained: Path, tmp_path: Path, row: int
) -> None:
    name, content, code, said = JSONS[row]
    folder = copy_of(trained, tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    rewritten(folder, name, content)
    assert_told(project.lmkit("generate", folder), code, said)


MANIFESTS: list[tuple[object, str]] = [
    (b"", "damaged"),
    (b"{", "damaged"),
    ([], "damaged"),
    ({}, "format None is not"),
    ({"format": 99, "files": {}}, "install the lmkit that wrote it"),
    ({"format": "2", "files": {}}, "format '2'"),
    ({"format": 2, "files": []}, "damaged"),
    ({"format": 2, "files": {"a": 3}}, "damaged at 'a'"),
    ({"format": 2, "files": {"a": {"size": -1, "sha256": "0" * 64}}}, ""),
    ({"format": 2, "files": {"a": {"size": 1e99, "sha256": "0" * 64}}}, "damaged at 'a'"),
    ({"format": 2, "files": {"../a": {"size": 1, "sha256": "0" * 64}}}, "outside the folder"),
    ({"format": 2, "files": {"/etc/passwd": {"size": 1, "sha256": "0" * 64}}}, "outside"),
    ({"format": 2, "files": {"a\\b": {"size": 1, "sha256": "0" * 64}}}, "outside the folder"),
    ({"format": 2, "files": {"": {"size": 1, "sha256": "0" * 64}}}, "outside the folder"),
    ({"format": 2, "files": {"a\0b": {"size": 1, "sha256": "0" * 64}}}, ""),
    ({"format": 2, "files": {"a" * 5000: {"size": 1, "sha256": "0" * 64}}}, ""),
    ({"format": 2, "files": {}}, "missing from the manifest"),
]


@pytest.mark.parametrize("row", range(len(MANIFESTS)))
def test_a_manifest_that_is_wrong(
    project: Project, trained: Path, tmp_path: Path, row: int
) -> None:
    content, said = MANIFESTS[row]
    folder = copy_of(trained, tmp_path)
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "manifest.json").write_bytes(text)
    assert_told(project.lmkit("generate", folder), 3, str(folder), said)


def copy_of(folder: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, tmp_path / "copy"))


# --- words, places --------------------------------------------------------------------------------

WORDS = [
    (["trian"], "did you mean 'train'?"),
    (["train"], "experiment"),
    (["train", "nowhere.yaml"], "there is no file nowhere.yaml"),
    (["train", "."], "is not a file"),
    (["train", "/dev/null"], "is not a file"),
    (["train", "a\0b"], ""),
    (["train", "x" * 5000], ""),
    (["check", "no/such/folder/x.yaml"], "there is no file"),
    (["generate"], "checkpoint"),
    (["eval", "nowhere"], "there is nothing to measure"),
    (["eval", "nowhere", "--tasks", "no_such_task"], "no_such_task"),
    (["eval", "nowhere", "--tasks", "os.system"], "os.system"),
    (["eval", "nowhere", "--tasks", "{"], "--tasks"),
    (["eval", "nowhere", "--limit", "0", "--tasks", "arithmetic"], "--limit"),
    (["describe", "no_such.Class"], "no_such"),
    (["list", "modles"], "modles"),
    (["bench", "no_such"], "no_such"),
]


@pytest.mark.parametrize("row", range(len(WORDS)))
def test_words_that_mean_nothing(project: Project, row: int) -> None:
    words, said = WORDS[row]
    assert_told(project.lmkit(*words), 2, said)


PLACES: list[tuple[list[str], int, str]] = [
    (["generate", "nowhere"], 3, "there is no such folder"),
    (["generate", "."], 3, "no checkpoint is here"),
    (["generate", "/dev/null"], 3, ""),
    (["generate", "a\0b"], 3, ""),
    (["generate", "x" * 5000], 3, ""),
    (["chat", "nowhere"], 3, "there is no such folder"),
    (["eval", "nowhere", "--tasks", "arithmetic"], 3, "there is no such folder"),
    (["report", "nowhere"], 2, "nowhere"),
]


@pytest.mark.parametrize("row", range(len(PLACES)))
def test_places_where_nothing_is(project: Project, row: int) -> None:
    words, code, said = PLACES[row]
    assert_told(project.lmkit(*words), code, said)


OUTS: list[tuple[str, int]] = [
    ("/dev/null/run", 74),
    ("/proc/run", 74),
    ("x" * 300, 74),
    ("text.txt", 74),
]


@pytest.mark.parametrize(("out", "code"), OUTS)
def test_a_folder_that_cannot_be_written(
    project: Project, monkeypatch: pytest.MonkeyPatch, out: str, code: int
) -> None:
    monkeypatch.chdir(project.folder)
    outcome = project.train(f"out={out}")
    assert outcome.code == code, outcome.err
    assert outcome.error


@pytest.mark.parametrize("name", ["with spaces", "caf\u00e9", "a'b\"c", "-dash", "\u65e5\u672c"])
def test_a_folder_of_any_name_will_do(project: Project, name: str) -> None:
    out = project.folder / name
    assert project.train(f"out={json.dumps(str(out))}", "stages.0.steps=1").code == 0
    assert project.lmkit("generate", out, "-n", "1").code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(project: Project) -> None:
    for file, code in ((project.yaml, 2), (project.folder / "text.txt", 2)):
        file.chmod(0)
        assert_told(project.train(), code, str(file))
        file.chmod(0o644)


# --- the real thing -------------------------------------------------------------------------------


def in_a_process() -> Iterator[tuple[list[str], int]]:
    yield ["train", "tiny.yaml", "stages.0.stepz=3"], 2
    yield ["train", "nowhere.yaml"], 2
    yield ["check", "tiny.yaml", "seed=x"], 2
    yield ["check", "laughs.yaml"], 2
    yield ["check", "deep.yaml"], 2
    yield ["trian", "tiny.yaml"], 2
    yield ["generate", "nowhere"], 3
    yield ["check", "."], 2
    yield ["train", "tiny.yaml", "name=a/b"], 2
    yield ["train", "tiny.yaml", "--profile", "0"], 2
    yield ["eval", "nowhere"], 2
    yield ["check", "tiny.yaml", "stages=[]"], 2


def test_a_dozen_in_processes_of_their_own(project: Project) -> None:
    """Most end before torch is imported."""
    (project.folder / "laughs.yaml").write_text(LAUGHS)
    (project.folder / "deep.yaml").write_text("a: " + "[" * 2000)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "lmkit", *words],
            cwd=project.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words, _ in in_a_process()
    ]
    for (words, code), process in zip(in_a_process(), running, strict=True):
        out, err = process.communicate(timeout=100)
        assert process.returncode == code, (words, err)
        assert out == ""
        assert err.startswith("error: "), err
        assert err.count("\n") == 1, err


def test_how_many_they_are() -> None:
    tables: list[Any] = [WHOLE_FILES, KEYS, TEXTS]
    once = [OVERRIDES, LINES, SHARDS, SOURCES, RANKS, PLUGINS, FORWARDS, FLAGS, TENSORS, JSONS]
    once += [MANIFESTS, WORDS, PLACES, OUTS, list(in_a_process())]
    number = len(COMMANDS) * sum(map(len, tables)) + sum(map(len, once))
    assert number >= count(150, 300)
    print(f"bad inputs told in one line: {number}")
