"""A model of the user's own trains and writes through the real command line, registered nowhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from lmkit.text import Byte
from lmkit.train import loading
from lmkit_models.mlp import MLP

# Of no shape that lmkit has seen: no embedding, no linear layer, a parameter of three dimensions.
MODEL = '''\
import torch
from helper import powers
from torch import nn

from lmkit import LMBase


class Votes(LMBase):
    """The last tokens, the nearer the heavier, vote for the next one."""

    def __init__(self, tokenizer, reach: int):
        super().__init__(tokenizer=tokenizer, max_len=24)
        size = tokenizer.vocab_size
        self.votes = nn.Parameter(torch.randn(reach, size, size) * 0.01)

    def forward(self, tokens):
        logits = 0
        for back, weight in enumerate(powers(0.5, len(self.votes))):
            seen = torch.nn.functional.pad(tokens, (back, 0))[:, : tokens.shape[1]]
            logits = logits + weight * self.votes[back][seen]
        return logits
'''
HELPER = "def powers(base, count):\n    return [base**i for i in range(count)]\n"
YAML = """\
name: votes
tokenizer: lmkit.text.tokenizer.Byte
model: {class: my_model.Votes, reach: 3}
runner: {device: cpu, precision: fp32}
stages:
  - name: pretrain
    data: {class: lmkit.data.sources.TextFiles, path: text.txt}
    steps: 30
    batch_size: 4
    optimizers: [{class: torch.optim.AdamW, lr: 0.1}]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, process: Callable[..., Any]) -> Path:
    """A folder with `project/`, the user's files, and `runs/votes/`, trained from them."""
    folder = tmp_path_factory.mktemp("trained")
    project = folder / "project"
    project.mkdir()
    (project / "my_model.py").write_text(MODEL)
    (project / "helper.py").write_text(HELPER)
    (project / "votes.yaml").write_text(YAML)
    (project / "text.txt").write_text("abcd" * 300)
    done = process("train", "project/votes.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert "pretrain     30" in done.out
    return folder


def test_it_trains_and_writes_from_another_folder(
    trained: Path, process: Callable[..., Any]
) -> None:
    done = process("generate", "runs/votes", "-p", "abc", "-n", "9", "-t", "0", cwd=trained)
    assert (done.code, done.err) == (0, "")
    assert done.out == "abcdabcdabcd\n"


def test_without_its_source_a_checkpoint_asks_for_trust(
    trained: Path, process: Callable[..., Any], tmp_path: Path
) -> None:
    newest = sorted((trained / "runs" / "votes" / "checkpoints").iterdir())[-1]
    copy = tmp_path / "copy"
    shutil.copytree(newest, copy)
    away = trained / "project.away"
    (trained / "project").rename(away)
    try:
        refused = process("generate", "copy", "-p", "abc", cwd=tmp_path)
        assert refused.code == 3
        assert "needs the module helper" in refused.error
        assert f"{trained / 'project' / 'helper.py'} is gone" in refused.error
        assert "--trust-code" in refused.error
        assert refused.out == ""
        words = ["-p", "ab", "-p", "bc", "-n", "4", "-t", "0", "--trust-code"]
        done = process("generate", "copy", *words, cwd=tmp_path)
        assert done.code == 0, done.err
        assert done.err.startswith("warning: copy: trusted, and run: copy/code/helper.py (sha256 ")
        assert done.err.count("(sha256 ") == 2
        assert done.out == "abcdab\n\nbcdabc\n\n"
    finally:
        away.rename(trained / "project")


def test_a_bare_string_names_a_model_beside_the_yaml(project: Any) -> None:
    source = (project.folder / "my_model.py").read_text().replace("class Table", "class MLP")
    (project.folder / "model.py").write_text(source)
    project.rewrite("model: {class: my_model.Table}", "model: model.MLP")
    done = project.train()
    assert done.code == 0, done.err
    done = project.lmkit("generate", project.run, "-p", "1", "-n", "3")
    assert done.code == 0
    assert done.out.startswith("1")


def test_a_prompt_from_stdin(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.train().code == 0
    monkeypatch.setattr("sys.stdin", StringIO("2 and 2 is"))
    done = project.lmkit("generate", project.run, "-p", "-", "-n", "2")
    assert done.out.startswith("2 and 2 is")


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32", "int8"])
def test_it_writes_and_talks_in_the_precision_asked_for(
    lmkit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    asked = []
    load = loading.load_model

    def loaded(*arguments: Any, **options: Any) -> Any:
        asked.append(options["precision"])
        return load(*arguments, **options)

    monkeypatch.setattr(loading, "load_model", loaded)
    model = MLP(tokenizer=Byte(), nodes=32, layers=1, max_len=16)
    folder = loading.save_for_inference(model, tmp_path / "model", {})
    chosen = () if precision == "auto" else ("--precision", precision)
    for command in ("generate", "chat"):
        done = lmkit(command, folder, *chosen, "-p", "1", "-n", "3", "--device", "cpu")
        assert done.code == 0, done.err
    assert asked == [precision, precision]


def test_a_run_says_what_it_is_then_where_it_goes_on_and_then_that_it_is_finished(
    project: Any,
) -> None:
    about = "66k parameters on cpu in fp32"
    assert f"{project.run}: {about}, 4 steps\n" in project.train().err
    longer = project.train("stages.0.steps=6")
    assert f"{project.run} goes on from step 4 of 6: {about}\n" in longer.err
    again = project.train("stages.0.steps=6")
    assert (again.code, str(project.run) in again.err) == (0, False)
    assert "is finished: 6 steps" in again.out


def test_texts_as_json(project: Any) -> None:
    assert project.train().code == 0
    prompts = ("-p", "1 and", "-p", "2\n\nand", "--samples", "2", "-n", "3")
    done = project.lmkit("generate", project.run, *prompts, "--json")
    told = [json.loads(line) for line in done.out.splitlines()]
    assert [each["prompt"] for each in told] == ["1 and"] * 2 + ["2\n\nand"] * 2
    assert all(each["tokens"] <= 3 and each["finish"] in ("stop", "length") for each in told)
    texts = "".join(f"{each['prompt']}{each['text']}\n\n" for each in told)
    assert project.lmkit("generate", project.run, *prompts).out == texts
