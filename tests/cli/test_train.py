"""`lmkit train` beside what it trains: a profile that changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmkit import load_model


def weights(run: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(run.glob("checkpoints/*/*.safetensors"))]


def test_a_profiled_run_trains_as_any_other(project: Any) -> None:
    plain, watched = project.folder / "plain", project.folder / "watched"
    assert project.train(f"out={plain}", "stages.0.steps=6").code == 0
    done = project.train(f"out={watched}", "stages.0.steps=6", "--profile", "2")
    assert done.code == 0, done.err
    assert "profile of 2 steps, " in done.err
    assert "aten::embedding" in (watched / "profile" / "operators.txt").read_text()
    assert (watched / "profile" / "trace.json.gz").exists()
    assert "pretrain      6" in done.out  # it went on to its end
    assert weights(plain) == weights(watched) != []


def test_a_step_tells_how_busy_it_kept_the_machine(project: Any) -> None:
    project.rewrite("my_model.Table", "lmkit_models.mlp.MLP, window: 4, nodes: 16, max_len: 16")
    assert project.train("stages.0.steps=2").code == 0
    lines = [json.loads(line) for line in (project.run / "metrics.jsonl").read_text().splitlines()]
    newest = sorted((project.run / "checkpoints").iterdir())[-1]
    peak = json.loads((newest / "state.json").read_text())["runner"]["peak"]
    assert peak["source"] == "measured"
    model = load_model(newest)
    for line in lines:
        share = line["tokens"] * model.flops_per_token(16) / line["seconds"] / peak["flops"]
        assert line["mfu"] == pytest.approx(share, abs=1e-4)


def test_no_steps_are_no_profile(project: Any) -> None:
    done = project.train("--profile", "0")
    assert (done.code, done.err) == (2, "error: --profile: 0 steps; 1 or more\n")
    assert not project.run.exists()


def test_recomputing_changes_nothing_but_memory(project: Any) -> None:
    model = "lmkit_models.gpt2.GPT2, embedding_dim: 16, heads: 2, layers: 2, max_len: 16"
    project.rewrite("my_model.Table", f"{model}, dropout: 0.2")
    ends = []
    for switch in ("false", "true"):
        run = project.folder / switch
        done = project.train(f"out={run}", f"runner.activation_checkpointing={switch}")
        assert done.code == 0, done.err
        ends.append(weights(run))
    assert ends[0] == ends[1] != []


def test_a_model_that_cannot_recompute_is_told_with_its_line(project: Any) -> None:
    done = project.train("runner.activation_checkpointing=true")
    assert done.code == 2
    assert f"tiny.yaml:{project.line('class: my_model.Table')}: Table has no nn.ModuleList" in (
        done.error
    )
    assert not project.run.exists()
