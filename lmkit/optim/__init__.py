"""optim: Muon, AdamW, OptimizerSet (several optimizers stepped as one), schedules."""

from __future__ import annotations

from lmkit.optim.adamw import AdamW
from lmkit.optim.muon import Muon
from lmkit.optim.optimizers import OptimizerSet

__all__ = ["AdamW", "Muon", "OptimizerSet"]
