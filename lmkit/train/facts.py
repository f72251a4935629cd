"""facts: what has to be the same on every rank of a run, by name; compares nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

import lmkit
from lmkit.checkpoints.plugin_code import code_hashes
from lmkit.config.experiment import Experiment, flat
from lmkit.train.stage_data import StageData


def facts_of(experiment: Experiment, data: Sequence[StageData]) -> dict[str, object]:
    """Every key of the experiment, each stage's data, the user's own modules, and the versions.

    Args:
        data: of the stages, in their order.
    """
    code = code_hashes(experiment.to_dict())
    texts = {
        f"the data of stage {stage.name}": each.fingerprint
        for stage, each in zip(experiment.stages, data, strict=True)
    }
    return {
        **flat(experiment),
        **texts,
        **{f"the module {name}": sha256 for name, sha256 in code.items()},
        "the version of lmkit": lmkit.__version__,
        "the version of torch": torch.__version__,
    }
