"""Plug-ins at work: what a user's own class raises or gives in the midst of a run ends in one line
that names it, with its traceback above, and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from lmkit.config.names import forget
from tests.cli.conftest import Outcome, Project
from tests.faults.test_inputs import assert_told

pytestmark = pytest.mark.timeout(120)  # against a hang; each takes a fraction of a second


@pytest.fixture(autouse=True)
def _gone_afterwards() -> Iterator[None]:
    """Other tests have modules of the same name, or have none."""
    yield
    forget("plug")


TEXT = "{class: lmkit.data.sources.TextFiles, path: text.txt, holdout: 0.25}"
# what it is: the words of the YAML, those in their place, what the error says
AT_WORK = {
    "a forward on eight tokens": (
        "model: {class: my_model.Table}", "model: {class: plug.Model, from_length: 3}",
        ": plug.Model.forward fails on 8 tokens: IndexError: x"),
    "a forward in a step": (
        "model: {class: my_model.Table}", "model: {class: plug.Model, from_length: 9}",
        "error: step 1: plug.Model fails in training: IndexError: x"),
    "an optimizer's step": (
        "batch_size: 2\n", "batch_size: 2\n    optimizers: [{class: plug.Fails, lr: 1.0}]\n",
        "error: step 1: plug.Fails.step fails: KeyError: 'x'"),
    "a schedule at the start": (
        "batch_size: 2\n", "batch_size: 2\n    schedule: {class: plug.falls, at: 0.0}\n",
        ": plug.falls fails at progress 0: ValueError: x"),
    "a schedule on the way": (
        "batch_size: 2\n", "batch_size: 2\n    schedule: {class: plug.falls, at: 0.5}\n",
        ": plug.falls fails at progress 0.5: ValueError: x"),
    "a source's documents": (
        TEXT, "plug.Breaks",
        ": plug.Breaks.documents fails: OSError: x"),
    "a source that a vocabulary is learned from": (
        "tokenizer: lmkit.text.tokenizer.Byte",
        "tokenizer: {class: lmkit.data.vocabulary.train_tokenizer, vocab_size: 300, "
        "train_on: {class: plug.Breaks}}",
        ": plug.Breaks.documents fails: OSError: x"),
    "a task's problems": (
        "{tokens: 64}", "{tasks: [plug.Asks]}", ": plug.Asks.problems fails: RuntimeError: x"),
}  # fmt: skip
PLUG = """\
import torch
from torch import nn

from lmkit import LMBase
from lmkit.data import Source
from lmkit.evals import Task


class Model(LMBase):
    def __init__(self, tokenizer, from_length):
        super().__init__(tokenizer=tokenizer, max_len=16)
        self.embedding = nn.Embedding(257, 257)
        self.inner = Inner(from_length)

    def forward(self, tokens):
        self.inner(tokens)
        return self.embedding(tokens)


class Inner(nn.Module):
    def __init__(self, from_length):
        super().__init__()
        self.from_length = from_length

    def forward(self, tokens):
        if tokens.shape[1] >= self.from_length:
            raise IndexError("x")


class Fails(torch.optim.SGD):
    def step(self, closure=None):
        raise KeyError("x")


def falls(progress, at):
    if progress >= at:
        raise ValueError("x")
    return 1.0


class Breaks(Source):
    def documents(self, split):
        yield "a first document"
        raise OSError("x")

    def fingerprint(self):
        return "breaks"


class Asks(Task):
    def problems(self, split):
        raise RuntimeError("x")

    def fingerprint(self):
        return "asks"
"""


@pytest.mark.parametrize("name", AT_WORK)
def test_a_plugin_at_work_that_fails_in(project: Project, name: str) -> None:
    old, new, said = AT_WORK[name]
    file = project.folder / "plug.py"
    file.write_text(PLUG)
    project.rewrite(old, new)
    outcome = project.lmkit("train", project.yaml)
    assert outcome.code == 2, outcome.err
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert last.endswith(f"{said}; mend it where its traceback ends")
    shown = outcome.err[outcome.err.index("Traceback") :].splitlines()
    assert str(file) in shown[1], "its own frames, not those that lead to it"


KEEPS = """\
import torch


class Keeps(torch.optim.SGD):
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            self.state[p]["thing"] = object()
"""


def test_an_optimizer_whose_state_no_checkpoint_can_hold_ends_the_run_at_its_first_step(
    project: Project,
) -> None:
    (project.folder / "plug.py").write_text(KEEPS)
    project.rewrite("batch_size: 2\n", "batch_size: 2\n    optimizers: [plug.Keeps]\n")
    outcome = project.lmkit("train", project.yaml, "stages.0.checkpoint.every=0")
    assert outcome.code == 2, outcome.err
    assert "keeps 0/embedding.weight/thing, of the class object" in outcome.error
    assert not (project.run / "metrics.jsonl").read_text()


def test_a_run_does_not_go_on_with_another_source_of_a_class_unless_it_is_allowed(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    assert project.train().code == 0
    project.rewrite("class Table", "# the same to Python\nclass Table", "my_model.py")

    def train(steps: int, *options: str) -> Outcome:
        sys.modules.pop("my_model")  # as a process of its own would have it
        return project.train(f"stages.0.steps={steps}", *options)

    refused = train(6)
    assert_told(refused, 3, f"{project.run} was begun otherwise: the module my_model changed; ")
    assert refused.error.endswith("or say --allow-change 'the module my_model'")
    allowed = train(6, "--allow-change", "the module my_model")
    assert allowed.code == 0, allowed.err
    assert "goes on although the module my_model changed" in caplog.text
    assert train(8).code == 0, "the newest checkpoint was made with what is there now"


GIVEN = {
    "a source of numbers": ("documents", "yield 3", "documents, document 0: a prompt must be a"),
    "a source of rows without a text": (
        "documents", "yield {'body': 'x'}", "document 0: no column is a prompt: 'body'"),
    "a source of rows that hold numbers": (
        "documents", "yield {'text': 3}", "document 0: 'text' is int, not a string"),
    "a task of rows": ("problems", "return [{'q': 1}]", "gave a dict, expected Problems; give a"),
    "a task of a generator": (
        "problems", "return (p for p in ())", "problems gave a generator, expected Problems"),
    "a task of nothing": ("problems", "return None", "problems gave a NoneType, expected Problems"),
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
def test_a_plugin_that_gives(project: Project, name: str) -> None:
    method, source, said = GIVEN[name]
    base = "Source" if method == "documents" else "Task"
    (project.folder / "plug.py").write_text(
        f"from lmkit.data import Source\nfrom lmkit.evals import Task\n\nclass Plug({base}):\n"
        f"    def {method}(self, split):\n        {source}\n"
        "    def fingerprint(self):\n        return 'plug'\n"
    )
    project.rewrite(TEXT, "plug.Plug")
    assert_told(project.lmkit("train", project.yaml), 2, "plug.Plug.", said)
    assert not project.run.exists()
