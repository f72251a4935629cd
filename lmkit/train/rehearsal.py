"""rehearsal: every stage's data read, and each opened for a look, before anything is written;
trains nothing.

What would end a run at night, in its third stage, is due in the first second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmkit.config import Experiment, blame
from lmkit.errors import CheckpointError, ConfigError
from lmkit.model import LMBase
from lmkit.optim import OptimizerSet
from lmkit.train.objective import open_objective
from lmkit.train.parameters import freeze
from lmkit.train.run_folder import RunFolder
from lmkit.train.stage_data import StageData
from lmkit.train.stage_run import StageRun
from lmkit.train.strategies import Kind, Reduction, check_stage


def prepare(
    experiment: Experiment, model: LMBase, strategy: Kind, reduction: Reduction
) -> list[StageData]:
    """Read the data of all stages.

    Raises:
        LMKitError: with the stage's line, what is missing, or cannot be done in this way.
    """
    data = []
    for stage in experiment.stages:
        with blame(stage.data.at):
            objective = open_objective(stage, experiment.folder)
            check_stage(strategy, reduction, stage, objective)
            data.append(objective.prepare(experiment, stage, model))
    return data


def rehearse(
    experiment: Experiment,
    data: Sequence[StageData],
    model: LMBase,
    folder: RunFolder,
    make_optimizers: Callable[[LMBase, StageRun], OptimizerSet],
    own_evaluation: bool,
) -> int:
    """Open all stages, and make their optimizers.

    Args:
        data: of each stage.
        own_evaluation: the runner measures what it likes: its `best` cannot be looked up.

    Returns:
        the optimizer steps of all of them.

    Raises:
        LMKitError: with the stage's line, what its training would run into.
    """
    optimizers: dict[str, Any] = {}
    steps = 0
    for index, (stage, each) in enumerate(zip(experiment.stages, data, strict=True)):
        with blame(stage.at, stage.places):
            freeze(model, stage)
            run = StageRun.open(experiment, index, each, model)
            run.read_tasks()
            made = make_optimizers(model, run)
            if stage.optimizer_state == "inherit":
                _check_inheritance(stage.name, made, optimizers)
            if not own_evaluation:
                run.check_best()
            if stage.init_from and stage.init_from not in [s.name for s in experiment.stages]:
                with blame(stage.places.get("init_from", stage.at)):
                    folder.find_weights(stage.init_from).check_weights(model)
            optimizers = made.state_meta()
            steps += run.plan.steps
    return steps


def _check_inheritance(stage: str, optimizers: OptimizerSet, before: Mapping[str, Any]) -> None:
    try:
        optimizers.check(before)
    except CheckpointError as error:
        raise ConfigError(
            f"stage '{stage}' cannot inherit the state of the optimizers before it: {error.what}",
            hint="write optimizer_state: fresh",
            key="optimizer_state",
        ) from error
