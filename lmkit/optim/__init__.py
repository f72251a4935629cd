"""optim: Muon, OptimizerSet (several optimizers stepped as one), schedules."""

from __future__ import annotations

from lmkit.optim.muon import Muon
from lmkit.optim.optimizers import OptimizerSet

__all__ = ["Muon", "OptimizerSet"]
