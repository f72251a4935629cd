"""Every YAML in experiments/: it opens with its command, loads, and its classes take its keys."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmkit.config import Experiment, Spec, check, load_experiment

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.yaml"))
# what the runner offers to a class that declares it
OFFERED = ("experiment", "tokenizer", "vocab_size", "folder", "steps", "progress", "params", "seed")
ROUTING = ("params", "no_decay")  # read by OptimizerSet, not by the optimizer


@pytest.fixture(autouse=True)
def _same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(ROOT)


def specs(experiment: Experiment) -> Iterator[Spec]:
    yield from (experiment.tokenizer, experiment.model, experiment.runner)
    for stage in experiment.stages:
        yield from (stage.data, stage.schedule)
        yield from filter(None, (stage.validation, stage.objective))
        yield from stage.evaluate.tasks
        for spec in () if stage.optimizers == "auto" else stage.optimizers:
            args = {key: value for key, value in spec.args.items() if key not in ROUTING}
            yield Spec(spec.path, args, spec.at, spec.places)


def test_there_are_experiments() -> None:
    assert ROOT / "experiments" / "quickstart.yaml" in EXPERIMENTS


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())
class TestEveryExperiment:
    def test_it_opens_with_its_command(self, file: Path) -> None:
        first = file.read_text().splitlines()[0]
        assert first.startswith("# ")
        assert f"lmkit train {file.relative_to(ROOT).as_posix()}" in first  # torchrun may precede

    def test_it_loads_and_goes_through_json_unchanged(self, file: Path) -> None:
        experiment = load_experiment(file.relative_to(ROOT))
        stored = json.loads(json.dumps(experiment.to_dict(), allow_nan=False))
        again = Experiment.from_dict(stored, folder=experiment.folder)
        assert again == experiment
        assert again.folder == experiment.folder == str(file.parent)

    def test_its_classes_take_its_keys(self, file: Path) -> None:
        for spec in specs(load_experiment(file.relative_to(ROOT))):
            check(spec, OFFERED)
