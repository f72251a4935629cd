"""The proof of exact resume: it kills, it passes what is equal, it tells what is not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmkit.checkpoints.manifest import MANIFEST, Manifest
from lmkit.cli import main
from lmkit.config import load_experiment
from lmkit.lab.equal_runs import compare_runs
from lmkit.lab.killed_run import KilledRun, RunFailed
from lmkit.lab.verify_resume import shorten


@pytest.fixture(scope="module")
def finished(
    make_experiment: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run's folder."""
    path = make_experiment(tmp_path_factory.mktemp("finished"))
    assert main(["train", str(path), "stages.pretrain.steps=4", "stages.sft.epochs=0.5"]) == 0
    return path.parent / "run"


def test_a_run_that_is_killed_ends_as_one_that_is_not(
    experiment_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "both"
    words = [str(experiment_file), "--steps", "3", "--kills", "3", "--folder", str(folder)]
    assert main(["verify-resume", *words, "runner.threads=1"]) == 0
    said = capfd.readouterr().out
    assert "6 steps on 1 rank, straight; and again with 3 SIGKILLs, after steps " in said
    assert re.findall(r"  equal$", said, re.MULTILINE) == ["  equal"] * 5
    assert "ids of all samples" in said
    assert said.rstrip().endswith("resume is exact: bit for bit what the undisturbed run gave")
    assert {path.name for path in folder.iterdir()} >= {"straight", "killed"}


def test_a_run_that_fails_is_told_of_with_its_own_error(experiment_file: Path) -> None:
    run = KilledRun([str(experiment_file), "seed=-1"], experiment_file.parent / "run")
    with pytest.raises(RunFailed, match="ended with exit code 2: error: .*seed"):
        run.straight()


def test_a_straight_run_that_was_slow_costs_no_kills(experiment_file: Path) -> None:
    """As one is that has to tokenise the data first."""
    out = experiment_file.parent / "run"
    words = [str(experiment_file), f"out={out}", "stages.pretrain.steps=60", "runner.threads=1"]
    kills = KilledRun(words, out).killed(3, 20, first=1000.0, seconds=2000.0, seed=1)
    assert len(list(kills)) == 3


def test_stages_are_made_short_and_keep_their_checkpoints(experiment_file: Path) -> None:
    changes = shorten(load_experiment(experiment_file), 6)
    short = load_experiment(experiment_file, changes)
    assert [stage.steps for stage in short.stages] == [6, 6]
    assert [stage.checkpoint.every for stage in short.stages] == [1, 1]
    assert [stage.evaluate.every for stage in short.stages] == [2, 0]
    long = load_experiment(experiment_file, shorten(load_experiment(experiment_file), 20))
    assert long.stages[0].steps == 8  # no longer than it was


def differing(one: Path, other: Path) -> dict[str, tuple[str, ...]]:
    return {each.what: each.differences for each in compare_runs(one, other) if not each.equal}


def test_a_run_is_equal_to_itself(finished: Path) -> None:
    assert not differing(finished, finished)


def test_one_number_of_one_tensor_is_enough(finished: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "run"))
    checkpoint = max((other / "checkpoints").iterdir())
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    name = "blocks.0.attention_norm.weight"
    tensors[name] = tensors[name].clone()
    tensors[name][3] = torch.nextafter(tensors[name][3], torch.tensor(9.0))
    file.unlink()
    save_file(tensors, file, metadata={"ties": json.dumps(ties(finished))})
    (checkpoint / MANIFEST).unlink()
    Manifest.write(checkpoint)
    found = differing(finished, other)
    assert list(found) == ["weights"]
    assert re.match(rf"{name} up to \S+e-0[78] apart, ", found["weights"][0])


def ties(run: Path) -> dict[str, str]:
    from safetensors import safe_open

    checkpoint = max((run / "checkpoints").iterdir())
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        found: dict[str, str] = json.loads(file.metadata()["ties"])
        return found


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("loss", "losses, norms, rates"),
        ("data", "ids of all samples"),
        ("validation_loss", "evaluations"),
    ],
)
def test_one_value_of_one_line_is_enough(
    finished: Path, tmp_path: Path, key: str, what: str
) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "run"))
    file = other / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    line = next(line for line in lines if key in line)
    line[key] = "0" if key == "data" else line[key] + 1e-12
    line["seconds"] = line.get("seconds", 0.0) + 1  # the clock may say what it likes
    file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    found = differing(finished, other)
    assert list(found) == [what]
    assert found[what][0].startswith(f"step {line['step']}: {key} is ")


def test_a_line_that_is_missing_is_noticed(finished: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "run"))
    file = other / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert "losses, norms, rates" in differing(finished, other)


@pytest.mark.parametrize("words", [["--steps", "0"], ["--kills", "0"], ["--ranks", "0"]])
def test_numbers_that_prove_nothing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-resume", "x.yaml", *words]) == 2
    assert f"error: {words[0]}: 0 is less than 1" in capsys.readouterr().err


def test_a_folder_with_something_in_it_is_left_alone(
    experiment_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = str(experiment_file.parent)
    assert main(["verify-resume", str(experiment_file), "--folder", here]) == 2
    assert "is not empty" in capsys.readouterr().err
