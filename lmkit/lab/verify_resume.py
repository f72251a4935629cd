"""verify_resume: the proof that a killed run ends as an undisturbed one, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmkit.config import Experiment, load_experiment
from lmkit.lab.equal_runs import Comparison, compare_runs
from lmkit.lab.killed_run import Kill, KilledRun
from lmkit.train.metrics import FILE
from lmkit.train.metrics_file import read_metrics


@dataclass(frozen=True)
class Verdict:
    """What was done and what came of it.

    Attributes:
        steps: of each of the runs.
        kills: in the order in which they came.
        comparisons: the undisturbed run with the killed one.
    """

    steps: int
    kills: tuple[Kill, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def exact(self) -> bool:
        """Whether nothing differs, and there was a kill to survive."""
        return bool(self.kills) and all(each.equal for each in self.comparisons)


def verify_resume(
    file: str,
    overrides: Sequence[str],
    folder: Path,
    *,
    steps: int,
    kills: int,
    ranks: int,
    seed: int,
) -> Verdict:
    """Train twice in processes of their own, the second time killed again and again; compare.

    Args:
        file: the experiment's YAML,
        overrides: and what is set over it.
        folder: for both runs; they begin anew there.
        steps: the longest that a stage may be.
        kills: SIGKILLs at random moments.
        ranks: processes of each run.
        seed: of the moments.

    Raises:
        RunFailed: a run ended with an error.
    """
    shortened = [*overrides, *shorten(load_experiment(file, overrides), steps)]
    straight, killed = (
        KilledRun([file, *shortened, f"out={folder / name}"], folder / name, ranks)
        for name in ("straight", "killed")
    )
    first, seconds = straight.straight()
    total = sum("loss" in line for line in read_metrics(folder / "straight" / FILE))
    suffered = tuple(killed.killed(kills, total, first, seconds, seed))
    found = tuple(compare_runs(folder / "straight", folder / "killed"))
    return Verdict(total, suffered, found)


def shorten(experiment: Experiment, steps: int) -> list[str]:
    """Overrides that make every stage at most so long, with evaluations and checkpoints in it."""
    changes = []
    for stage in experiment.stages:
        if stage.steps is None or stage.steps > steps:
            changes.append(f"stages.{stage.name}.steps={steps}")
        changes.append(f"stages.{stage.name}.checkpoint.every={max(1, steps // 4)}")
        if stage.evaluate.every:
            every = min(stage.evaluate.every, max(1, steps // 3))
            changes.append(f"stages.{stage.name}.evaluate.every={every}")
    return changes
