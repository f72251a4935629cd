"""The benchmark of generation, tiny, and what its contestants do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.generate import WEIGHTS, Task
from benchmarks.shapes import SHAPES
from benchmarks.writers import Lmkit, Numbers, Queue, make_model

TASK = Task(replace(SHAPES["tiny"], context=16), 32, (4, 4, 6), 5, "cpu")


@pytest.mark.usefixtures("in_turn")
def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "generate.json"
    assert main(["generate", "--smoke", "--contestants", "lmkit", "--json", str(file)]) == 0
    assert "lmkit gpt2 bf16" in capsys.readouterr().out
    rows = json.loads(file.read_text())["rows"]
    assert all(row["tokens/s"] > 0 for row in rows)
    speed = {(row["setting"], row["contestant"]) for row in rows if "contestant" in row}
    precisions = (*(f"lmkit {each}" for each in WEIGHTS), "lmkit gpt2 bf16", "lmkit gpt2 int8")
    assert speed == {(f"tiny, batch {batch}", name) for batch in (1, 3) for name in precisions}
    assert {row["setting"]: row["way"] for row in rows if "way" in row} == {
        "tiny, lengths": "different",
        "tiny, queue of 4, 2 at a time": "continuous",
        "tiny, repeating text, batch 1": "lookup 8",
        "tiny, repeating text, batch 3": "lookup 8",
    }


def test_a_part_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--parts", "speed,quue"]) == 2
    assert "--parts: there is no part 'quue'; did you mean 'queue'?" in capsys.readouterr().err


def test_prompts_are_different_and_of_the_lengths_that_are_asked_for() -> None:
    prompts = TASK.prompts()
    assert [len(ids) for ids in prompts] == [4, 4, 6]
    assert prompts[0] != prompts[1]
    tokenizer = Numbers(TASK.shape.vocabulary)
    assert all(ids[0] == tokenizer.bos and tokenizer.bos not in ids[1:] for ids in prompts)
    assert tokenizer.encode(tokenizer.decode(prompts[0][1:])) == prompts[0][1:]


def test_every_token_is_written_and_counted() -> None:
    measure = Lmkit(TASK, "fp32").round(0)
    assert measure.amount == 3 * 5
    matrices_and_head = make_model(TASK, "gpt").scaling_parameter_count()
    assert measure.more == {"bytes": 4 * matrices_and_head}


def test_an_answer_that_ends_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Lmkit(TASK, "fp32")
    writer._wanted += 1
    with pytest.raises(RuntimeError, match="15 tokens were written, not 16"):
        writer.work()


def test_in_circles_a_token_depends_on_the_last_one_only() -> None:
    model = make_model(TASK, "gpt", circles=True)
    tokens = torch.tensor([[1, 2, 3], [4, 5, 3]])
    with torch.no_grad():
        one, other = model.logits(tokens)[:, -1]
        assert torch.equal(one, other)
        different = make_model(TASK, "gpt").logits(tokens)[:, -1]
    assert not torch.equal(*different)


@pytest.mark.parametrize("continuous", [False, True])
def test_a_queue_writes_each_answer_to_its_end(continuous: bool) -> None:
    task = replace(TASK, lengths=(4,) * 5)
    queue = Queue(task, "fp32", (1, 5, 2, 3, 4), 2, continuous)
    assert queue.work() == 1 + 5 + 2 + 3 + 4


ENGINE = """\
class Engine:
    def __init__(self, model, tokenizer):
        self.marks = tokenizer.encode_special("<|assistant_end|>"), tokenizer.get_bos_token_id()

    def generate(self, tokens, num_samples, max_tokens, temperature):
        assert len(tokens) == 4 and temperature == 0 and min(tokens) >= 0 > max(self.marks)
        for step in range(max_tokens):
            yield [step] * num_samples, [1] * num_samples
"""
MODEL = """\
from types import SimpleNamespace as GPTConfig
from torch import nn

class GPT(nn.Linear):
    def __init__(self, config):
        assert config.n_embd == 64 and config.n_head == 2 and config.n_layer == 2
        super().__init__(3, 4)

    def init_weights(self):
        nn.init.zeros_(self.weight)
"""


@pytest.fixture
def nanochat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "nanochat").mkdir()
    (tmp_path / "nanochat" / "engine.py").write_text(ENGINE)
    (tmp_path / "nanochat" / "gpt.py").write_text(MODEL)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield str(tmp_path)
    for name in {"nanochat", "nanochat.engine", "nanochat.gpt"} & (set(sys.modules) - before):
        del sys.modules[name]


def test_nanochats_engine(nanochat: str) -> None:
    from benchmarks.peers.nanochat_engine import Generate

    assert Generate(replace(TASK, lengths=(4, 4)), nanochat).round(0).amount == 2 * 5


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_hugging_face(architecture: str) -> None:
    pytest.importorskip("transformers")
    from benchmarks.peers.huggingface import Generate

    task = replace(TASK, lengths=(4, 4))
    assert Generate(task, architecture, "float32").round(0).amount == 2 * 5
