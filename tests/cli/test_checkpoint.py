"""`lmkit checkpoint`: what a run keeps and why, whether it is as it was, what two differ in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from lmkit.checkpoints.contents import CheckpointContents
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.cli import main
from lmkit.optim import OptimizerSet
from lmkit.text import Byte
from lmkit.train.lock import run_lock
from lmkit_models.mlp import MLP

EXPERIMENT = {
    "name": "x",
    "stages": [
        {"name": "a", "checkpoint": {"keep": 3, "best": "loss"}},
        {"name": "b", "checkpoint": {"keep": 2, "best": None}},
    ],
}


def write(run: Path, *steps: tuple[int, str, float]) -> None:
    """Checkpoints whose weights tell their step; none is deleted."""
    torch.manual_seed(0)
    model = MLP(tokenizer=Byte(), embedding_dim=2, window=1, nodes=2, layers=1, max_len=8)
    groups = {"all": list(model.named_parameters())}
    optimizers = OptimizerSet.build(groups, [{"class": "torch.optim.AdamW", "lr": 0.1}])
    directory = CheckpointDir(run / "checkpoints", keep=99)
    directory.prepare()
    for step, stage, loss in steps:
        with torch.no_grad():
            model.head.weight[0, 0] = step
        directory.save(
            CheckpointContents(
                model,
                optimizers,
                state={"seconds": step},
                experiment=EXPERIMENT,
                stage=stage,
                step=step,
                metrics={"loss": loss},
            )
        )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Of stage a the first was best; two of five are not to be kept."""
    steps = [(1, "a", 1.0), (2, "a", 2.0), (3, "a", 3.0), (4, "b", 0.0), (5, "b", 0.0)]
    write(tmp_path / "run", *steps)
    return tmp_path / "run"


def names(run: Path) -> list[str]:
    return [entry.name for entry in CheckpointDir(run / "checkpoints").entries()]


def test_list_says_why_each_stays(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(run / "checkpoints" / "00000002-a" / "model.safetensors", 10)
    (run / "checkpoints" / ".tmp-00000006-b").mkdir()
    assert main(["checkpoint", "list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [" ".join(line.split()) for line in lines]
    assert found[0] == "checkpoint size age stays as measured files"
    assert found[1].startswith("00000001-a ")
    assert found[1].endswith(" best of its stage loss 1 whole")
    assert found[2].startswith("00000002-a - - - - bad: model.safetensors has 10 bytes, not")
    assert " last of its stage loss 3 whole" in found[3]
    assert " latest, last of its stage loss 0 whole" in found[5]
    assert ".tmp-00000006-b is left over" in found[6]


def test_list_asks_the_second_place_where_it_is_told_to(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"copy_to": str(tmp_path / "safe"), "out": "runs/run"}
    monkeypatch.setattr(f"{__name__}.EXPERIMENT", {**EXPERIMENT, **more})
    write(run, (6, "b", 0.0))
    there = tmp_path / "safe" / "run"

    def last_line(*words: str) -> str:
        assert main(["checkpoint", "list", str(run), *words]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    assert last_line() == f"copies are in {there}: --copies asks whether all of them are"
    assert not there.exists()
    said = ", ".join(names(run))
    assert last_line("--copies") == f"not in {there}: {said}; `lmkit train` copies what it keeps"
    shutil.copytree(run / "checkpoints", there / "checkpoints")
    assert last_line("--copies") == f"all whole ones are in {there}"
    (there / "checkpoints" / "00000003-a" / "manifest.json").unlink()
    assert last_line("--copies").startswith(f"not in {there}: 00000003-a;")


def test_verify_reads_all(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "verify", str(run)]) == 0
    assert capsys.readouterr().out.count("good, ") == 5
    path = run / "checkpoints" / "00000003-a" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["checkpoint", "verify", str(run)]) == 3
    said = capsys.readouterr()
    assert "00000003-a: optimizer.safetensors is altered" in said.out
    assert "1 of 5 checkpoints are bad" in said.err
    assert main(["checkpoint", "verify", str(run / "checkpoints" / "00000004-b")]) == 0
    assert main(["checkpoint", "verify", str(path.parent)]) == 3


def test_prune_keeps_what_the_run_would(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(run)
    assert main(["checkpoint", "prune", str(run), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == ["00000002-a would go", "4 stay"]
    assert names(run) == before
    assert main(["checkpoint", "prune", str(run), "--keep", "4"]) == 0
    assert names(run) == before
    assert main(["checkpoint", "prune", str(run)]) == 0
    assert names(run) == ["00000001-a", "00000003-a", "00000004-b", "00000005-b"]


def test_prune_leaves_a_run_at_work_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with run_lock(run):
        assert main(["checkpoint", "prune", str(run)]) == 3
    assert "is working on this run" in capsys.readouterr().err
    assert main(["checkpoint", "prune", str(run), "--keep", "1"]) == 2
    assert len(names(run)) == 5


def test_diff_names_what_differs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = run / "checkpoints" / "00000004-b", run / "checkpoints" / "00000005-b"
    assert main(["checkpoint", "diff", str(one), str(other)]) == 1
    said = capsys.readouterr().out
    assert "model.safetensors: head.weight: up to 1 apart, 0.2% of it" in said
    assert "model.safetensors: 1 differ" in said
    assert "state.json: step: 4 in the first, 5 in the second" in said
    assert "optimizer.safetensors" not in said
    assert "seconds" not in said
    assert main(["checkpoint", "diff", str(run), str(other)]) == 0
    assert "they are the same" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["list", "verify", "prune"])
def test_where_there_is_none_it_says_so(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoint", action, str(tmp_path)]) == 3
    assert "no checkpoint is here" in capsys.readouterr().err
    assert main(["checkpoint", action, str(tmp_path / "nowhere")]) == 3
    assert "there is no such folder" in capsys.readouterr().err


def test_a_copy_of_the_folder_is_as_good(run: Path, tmp_path: Path) -> None:
    shutil.move(run, tmp_path / "moved")
    assert main(["checkpoint", "list", str(tmp_path / "moved" / "checkpoints")]) == 0
