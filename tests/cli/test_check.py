"""`lmkit check`: what an experiment will do, told without training and without writing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent


def check(project: Any, *words: str) -> dict[str, Any]:
    """The JSON of a check that finds nothing wrong."""
    done = project.lmkit("check", project.yaml, "--json", *words)
    assert done.code == 0, done.err
    assert done.err == ""
    return json.loads(done.out, parse_constant=pytest.fail)


def test_what_it_tells(project: Any) -> None:
    done = project.lmkit("check", project.yaml)
    assert (done.code, done.err) == (0, "")
    for part in (
        "run         tiny, into ",
        "device      cpu, computing in fp32",
        "model       my_model.Table, 16 tokens of context, 257 entries",
        "66,049 parameters",
        "embeddings                  66,049  100.0%",
        "stage pretrain",
        "data        TextFiles: text.txt, 0.0 MB, 25% held out",
        "753 tokens to train on, 48 rows",
        "length      4 steps, 128 tokens, 0.167 epochs",
        "step        2 rows of 16: 32 tokens, all rows at once",
        "AdamW/embedding.weight            66,049 parameters, rate 0.02\n",
        "memory      about ",
        "(an estimate)",
        "weights 258.0 KiB, gradients 258.0 KiB, optimizers 516.0 KiB, activations ",
        "time        unknown: the model does not tell its FLOPs, but --run measures it",
        "its first rows; what is not trained is marked -",
        f"Nothing is wrong with it: lmkit train {project.yaml}",
    ):
        assert part in done.out, part
    told = done.out.replace(str(project.yaml.parent), "project")  # as long as it may be
    assert max(map(len, told.splitlines())) <= 110
    assert "are trained" not in done.out, "all of them"
    assert not project.run.exists()


def test_a_layer_that_is_copied_deeply_needs_no_numbers(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as torch's nn.TransformerEncoder does; here its warning would be an error
    project.rewrite("from torch import nn", "import copy\nfrom torch import nn", "my_model.py")
    layer = "nn.Embedding(vocab_size, vocab_size)"
    project.rewrite(layer, f"copy.deepcopy({layer})", "my_model.py")
    made = "lmkit.train.runner.LMRunnerBase.initialize"  # in earnest
    monkeypatch.setattr(made, lambda *_, **__: pytest.fail("it was made with its numbers"))
    assert check(project)["parameters"] == 66_049


def test_what_only_another_device_can_tell_is_said_in_a_line(project: Any) -> None:
    model = "model={class: lmkit_models.mlp.MLP, nodes: 32, embedding_dim: 16, max_len: 16}"
    fp8 = ["runner.precision=fp8", "runner.device=cpu"]
    done = project.lmkit("check", project.yaml, model, *fp8)
    assert done.code == 0, done.err
    assert "device      cpu, computing in bf16\n            in place of fp8, whose" in done.out
    # what needs no such device is told as ever
    for words, said in [((), "precision fp8 finds nothing to do"), ((model, "--run"), "needs an")]:
        done = project.lmkit("check", project.yaml, *words, *fp8)
        assert (done.code, said in done.err) == (2, True), done.err


def test_what_was_overridden_belongs_to_the_command(project: Any) -> None:
    words = ["stages.0.evaluate={tokens: 32}", "--set", "seed=3"]
    done = project.lmkit("check", project.yaml, *words)
    said = f"lmkit train {project.yaml} 'stages.0.evaluate={{tokens: 32}}' seed=3"
    assert done.out.endswith(f"Nothing is wrong with it: {said}\n")


def test_json(project: Any) -> None:
    found = check(project, "stages.0.batch_size=5", "stages.0.lr_scale=0.5")
    (stage,) = found["stages"]
    assert found["micro_step"] is None
    assert found["parts"] == {"matrices": 0, "embeddings": 66049, "head": 0, "scalars": 0}
    assert stage["available"]
    assert stage["counted"]
    assert (stage["steps"], stage["tokens"], stage["batch_tokens"]) == (4, 320, 80)
    assert (stage["micro_batch"], stage["micro_steps"]) == (2, 3)
    assert stage["optimizers"][0]["rate"] == pytest.approx(0.5 * 0.02)
    assert len(stage["schedule"]) == 4
    untrained, trained = stage["rows"][0]
    assert untrained == {"text": "<|endoftext|>", "trained": False}
    assert trained["trained"]
    assert trained["text"] in (project.folder / "text.txt").read_text()


def test_a_real_micro_step(project: Any) -> None:
    found = check(project, "--run", "stages.0.batch_size=5")
    step = found["micro_step"]
    assert (step["rows"], step["tokens"]) == (2, 32)
    # a table of standard normal logits: the mean of logsumexp is ln 257 + 1/2
    assert 5.0 < step["loss"] < 7.0
    assert found["seconds"]["pretrain"] == pytest.approx(320 / 32 * step["seconds"])
    done = project.lmkit("check", project.yaml, "--run")
    assert f"loss {step['loss']:.2f}"[:-1] in done.out
    assert "at the speed of the micro-step" in done.out
    assert not project.run.exists()


def test_a_micro_step_that_is_not_finite(project: Any) -> None:
    project.rewrite("self.embedding(tokens)", "self.embedding(tokens) / 0 * 0", "my_model.py")
    done = project.lmkit("check", project.yaml, "--run", "--json")
    assert done.code == 4
    assert "the first micro-step's loss is not finite" in done.error
    assert done.out == ""


def test_the_mask_of_prompts(project: Any) -> None:
    lines = [{"prompt": f"{i}+{i}=", "truth": f"{2 * i}"} for i in range(20)]
    path = project.folder / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    data = f"stages.0.data={{class: lmkit.data.sources.JsonLines, path: {path}}}"
    words = [project.yaml, data, "stages.0.include_prompts=false", "stages.0.epochs=3"]
    done = project.lmkit("check", *words)
    rows = done.out.splitlines()
    first = next(i for i, row in enumerate(rows) if "<|endoftext|>" in row)
    text, marks = rows[first], rows[first + 1]
    asked = text.index("=") + 1
    assert set(marks[text.index("<") : asked]) == {"-"}
    assert len(marks) == asked, "the answer and its end are trained"
    assert "epochs" in done.out
    (share,) = re.findall(r"(\d+)% of the first rows' tokens are trained", done.out)
    trained = int(share) / 100
    found = check(project, *words[1:])["stages"][0]
    assert found["trained"] == pytest.approx(trained, abs=0.005)
    assert 0.1 < trained < 0.4, "of 9 to 11 tokens 2 to 3, and the rest of the row is padding"


def test_what_auto_stands_for(project: Any) -> None:
    model = "model={class: lmkit_models.gpt.GPT, depth: 1, width: 32, head_dim: 16, max_len: 16}"
    words = [model, "stages.0.tokens=auto", "stages.0.batch_tokens=auto", "stages.0.lr_scale=0.5"]
    found = check(project, *words)["stages"][0]
    done = project.lmkit("check", project.yaml, *words)
    size = 12 * 32 * 32 + 2 * 12 + 320 * 32  # matrices, the gate of two heads, the head
    assert found["steps"] == max(1, 12 * size // found["batch_tokens"])
    for part in (
        f"tokens: auto is 12 x {size:,} parameters of matrices and head = {12 * size:,} (nanochat)",
        f"length      {found['steps']:,} steps, {found['tokens']:,} tokens",
        f"batch_tokens: auto is 2^19 x ({12 * size / 1000:.3g}k / 1.32B tokens)^0.383 = ",
        f"{found['batch_tokens']:,} tokens",
        "Muon/matrices ",
        "for batch and horizon, 0.28 x ",
        "for batch and horizon (nanochat) x 0.5 by lr_scale",
    ):
        assert part in done.out, part
    *lines, _, _ = done.out.splitlines()
    assert max(map(len, lines)) <= 110


RL = """
  - name: rl
    data: {class: lmkit.tasks.arithmetic.Arithmetic, digits: 1}
    objective: {class: lmkit.rl.grpo.GRPO, group_size: 4}
    steps: 3
    batch_size: 5
"""


def test_reinforcement_learning(project: Any) -> None:
    model = "model={class: lmkit_models.gpt.GPT, depth: 1, width: 32, head_dim: 16, max_len: 64}"
    project.rewrite("    checkpoint: {every: 2}\n", "    checkpoint: {every: 2}\n" + RL)
    found = check(project, model)
    _, stage = found["stages"]
    assert stage["step"] == "5 problems, 4 answers to each"
    assert (stage["steps"], stage["tokens"], stage["data_tokens"]) == (3, None, None)
    assert stage["epochs"] == pytest.approx(15 / stage["data_rows"])
    assert found["seconds"]["rl"] is None
    out = project.lmkit("check", project.yaml, model).out
    assert "step        5 problems, 4 answers to each\n" in out
    assert "x 0.05 by GRPO" in " ".join(out.split())
    assert "length      3 steps, " in out
    assert "time        not known before training begins" in out
    project.rewrite("batch_size: 5", "batch_tokens: 80")
    done = project.lmkit("check", project.yaml, model)
    assert done.code == 2
    assert "give batch_size (problems a step)" in done.error


FAR = "class: lmkit.data.corpora.HubDataset, repo: a/b, files: x.jsonl"


def test_a_vocabulary_that_waits_for_its_text(project: Any) -> None:
    """Its size is known, so that everything can be told but what is counted in its tokens."""
    learned = "{class: lmkit.data.vocabulary.train_tokenizer, vocab_size: 300, train_on: {%s}}"
    words = [f"tokenizer={learned % FAR}", "model.vocab_size=300"]
    found = check(project, *words)
    assert found["vocabulary"] == 300
    assert "a/b" in found["learned_from"]
    stage = found["stages"][0]
    assert stage["available"]
    assert (stage["data_tokens"], stage["data_rows"], stage["rows"]) == (None, None, [])
    out = project.lmkit("check", project.yaml, *words).out
    assert "vocabulary  learned from HubDataset a/b" in out
    assert "its tokens are counted when training begins" in out


def test_a_task_that_is_not_here(project: Any) -> None:
    words = ["stages.1.data=lmkit.tasks.gsm8k.GSM8K"]
    project.rewrite("    checkpoint: {every: 2}\n", "    checkpoint: {every: 2}\n" + RL)
    stage = check(project, *words)["stages"][1]
    assert not stage["available"]
    assert (stage["step"], stage["steps"]) == ("5 problems, 4 answers to each", 3)


def test_text_that_is_tokenised_already_is_counted(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the beginning of a large text is read; once it was trained on, its tokens are known."""
    monkeypatch.setattr("lmkit.lab.peek.ENOUGH", 1000)
    (project.folder / "text.txt").write_text("one two three. \n" * 500)  # 8000 bytes
    before = check(project, "stages.0.epochs=2")["stages"][0]
    assert not before["counted"]
    done = project.lmkit("check", project.yaml, "stages.0.epochs=2")
    assert "about 6k tokens to train on, 378 rows, by its first documents" in done.out
    assert "tokens, 2 epochs; the steps are counted when training begins" in done.out
    assert project.train("stages.0.steps=1").code == 0
    after = check(project, "stages.0.epochs=2")["stages"][0]
    assert after["counted"]
    assert after["data_tokens"] == before["data_tokens"] == 6000
    assert after["steps"] == pytest.approx(before["steps"], rel=0.01)


def test_a_model_that_needs_numbers_is_made_in_earnest(project: Any) -> None:
    project.rewrite(
        "return self.embedding(tokens)",
        "return self.embedding(tokens.clamp(0, int(tokens.max())))",
        "my_model.py",
    )
    assert check(project)["stages"][0]["memory"]["activations"] > 0


def test_colour(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[2m<\x1b[0m" in project.lmkit("check", project.yaml).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in project.lmkit("check", project.yaml).out


def test_d20(lmkit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A billion parameters and data that is not here: no gigabyte is allocated, nothing fetched."""
    monkeypatch.setenv("LMKIT_CACHE", str(tmp_path / "cache"))
    largest = 0
    empty = torch.empty

    def watch(*size: Any, **options: Any) -> torch.Tensor:
        nonlocal largest
        made = empty(*size, **options)
        if type(made) is torch.Tensor and made.device.type == "cpu":
            largest = max(largest, made.numel() * made.element_size())
        return made

    monkeypatch.setattr(torch, "empty", watch)
    done = lmkit("check", ROOT / "experiments" / "gpt_d20.yaml", "--json")
    assert done.code == 0, done.err
    assert largest < 2e8  # an embedding of the vocabulary's size to encode with, no weights
    found = json.loads(done.out)
    assert [stage["name"] for stage in found["stages"]] == ["pretrain", "midtrain", "sft", "rl"]
    pretrain, midtrain, sft, rl = found["stages"]
    assert "climbmix" in found["learned_from"]
    assert not any(stage["available"] for stage in found["stages"])
    assert all("on this disk" in stage["data"] for stage in found["stages"])
    assert pretrain["rows"] == []
    assert midtrain["steps"] is None, "it follows from data that nobody has counted"
    assert found["seconds"]["midtrain"] is found["seconds"]["rl"] is None
    assert found["seconds"]["pretrain"] > 1e4, "by its FLOPs"
    assert sft["steps"] == 245
    assert rl["step"] == "16 problems, 16 answers to each"
    gib = 2**30
    memory = pretrain["memory"]
    assert memory["weights"] == memory["gradients"] == 4 * found["parameters"]
    assert 5 * gib < memory["optimizers"] < 6 * gib, "Muon keeps one number a weight, AdamW two"
    assert not list((tmp_path / "cache").rglob("*")), "nothing is kept"
    # what nanochat's own code gives for its d20 (92d63d4, 32,768 entries, 12 tokens a parameter);
    # this model lacks the 26 parameters of smear and backout
    assert found["parameters"] == 896_533_746 - 26
    assert (pretrain["steps"], pretrain["batch_tokens"]) == (4980, 1_048_576)
    muon, *adamw = pretrain["optimizers"]
    rates = [muon["rate"], muon["decay"], *(each["rate"] for each in adamw)]
    nanochats = [0.028284, 0.100188, 0.008764, 0.32863, 0.16432, 0.007071, 0.70711]
    assert rates == pytest.approx(nanochats, rel=1e-4)
    assert pretrain["why"]["tokens"].endswith("= 5,221,922,880 (nanochat)")
    assert "^0.383 = 887,496" in pretrain["why"]["batch_tokens"]
    assert all(each["why"] for each in pretrain["optimizers"])
    assert all(each["decay"] is None for each in midtrain["optimizers"]), "who knows the horizon"
