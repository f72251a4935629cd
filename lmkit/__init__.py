"""lmkit: a plain model class goes through its whole life. The public names, opened on first use.

``import lmkit`` alone loads nothing else: the command line answers before torch is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmkit.config.experiment import Experiment, load_experiment
    from lmkit.config.registry import build, register, resolve
    from lmkit.inference.sampling import Sampling
    from lmkit.model.base import LMBase
    from lmkit.prompts import Prompt
    from lmkit.text.batch import Batch
    from lmkit.train.loading import load_model
    from lmkit.train.runner import BasicModelRunner, LMRunnerBase

__version__ = "0.1.0"

__all__ = [
    "BasicModelRunner",
    "Batch",
    "Experiment",
    "LMBase",
    "LMRunnerBase",
    "Prompt",
    "Sampling",
    "build",
    "load_experiment",
    "load_model",
    "register",
    "resolve",
]

_HOMES = {
    "BasicModelRunner": "lmkit.train.runner",
    "Batch": "lmkit.text.batch",
    "Experiment": "lmkit.config.experiment",
    "LMBase": "lmkit.model.base",
    "LMRunnerBase": "lmkit.train.runner",
    "Prompt": "lmkit.prompts",
    "Sampling": "lmkit.inference.sampling",
    "build": "lmkit.config.registry",
    "load_experiment": "lmkit.config.experiment",
    "load_model": "lmkit.train.loading",
    "register": "lmkit.config.registry",
    "resolve": "lmkit.config.registry",
}


def __getattr__(name: str) -> Any:
    """Import the module of a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
