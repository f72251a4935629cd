"""beginning: the weights that a stage with an objective began with, which it compares with.

They are read from the disk, so that a resumed run has the same ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from lmkit.config import Experiment
from lmkit.errors import ConfigError
from lmkit.model import LMBase
from lmkit.train.run_folder import RunFolder
from lmkit.train.stage_run import StageRun


def find_beginning(experiment: Experiment, index: int, folder: RunFolder) -> dict[str, str] | None:
    """Where the weights lie that stage `index` begins with, as JSON; None where they are new, or no
    objective asks."""
    stage = experiment.stages[index]
    start = stage.init_from or (experiment.stages[index - 1].name if index else None)
    if stage.objective is None or start is None:
        return None
    return folder.note(folder.find_weights(start))


def copy_of_beginning(
    model: LMBase, note: Mapping[str, str] | None, folder: RunFolder, run: StageRun
) -> LMBase:
    """The model with the weights that `find_beginning` noted for a stage; no gradient reaches it.

    Raises:
        ConfigError: they were new.
        CheckpointError: they are gone, or others.
    """
    if note is None:
        raise ConfigError(
            f"stage '{run.stage.name}' compares with the weights it begins with, and they are new",
            hint="train a stage before it, or give it init_from:",
        )
    reference = copy.deepcopy(model).requires_grad_(False)
    folder.noted(note).load_weights(reference)
    return reference.eval()
