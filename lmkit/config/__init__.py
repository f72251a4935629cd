"""config: what a YAML says, checked and frozen before anything heavy is imported."""

from __future__ import annotations

from lmkit.config.experiment import (
    Checkpointing,
    Evaluate,
    Experiment,
    OptimizerSpec,
    Stage,
    differences,
    load_experiment,
)
from lmkit.config.registry import (
    Parameter,
    Place,
    Spec,
    add_search_folder,
    blame,
    build,
    check,
    coerce,
    parameters,
    register,
    resolve,
)

__all__ = [
    "Checkpointing",
    "Evaluate",
    "Experiment",
    "OptimizerSpec",
    "Parameter",
    "Place",
    "Spec",
    "Stage",
    "add_search_folder",
    "blame",
    "build",
    "check",
    "coerce",
    "differences",
    "load_experiment",
    "parameters",
    "register",
    "resolve",
]
