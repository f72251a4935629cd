"""average: an exponential moving average of the weights, which is what a stage hands on.

Trained weights jump about their path; their average lies in its middle, and is often the better
model (Polyak and Juditsky 1992; Izmailov et al. 2018, arXiv 1803.05407). Training goes on with the
weights themselves; evaluations, checkpoints and the next stage get the average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of every trained parameter, in its dtype, beside the model.

    It begins as the weights that the model has: those that a stage begins with, or the average that
    a checkpoint holds as its weights.

    Args:
        decay: share of the past that a step keeps, in (0, 1). In the first steps less is kept, so
            that the first weights are soon forgotten: step n keeps at most (1 + n) / (10 + n).
        step: steps made before, of a stage that goes on.
    """

    def __init__(self, model: nn.Module, decay: float, step: int = 0) -> None:
        self.decay = decay
        self._step = step
        trained = [p for p in model.parameters() if p.requires_grad]
        self._average = {p: p.detach().clone() for p in trained}

    @torch.no_grad()
    def take(self) -> None:
        """Be what the model's weights are now: a checkpoint's, which are the average."""
        for p, average in self._average.items():
            average.copy_(p)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after a step."""
        self._step += 1
        keep = min(self.decay, (1 + self._step) / (10 + self._step))
        for p, average in self._average.items():
            average.lerp_(p, 1 - keep)

    def in_place_of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`model.state_dict(keep_vars=True)` with the average where the trained parameters were."""
        return {
            name: self._average.get(value, value) if isinstance(value, nn.Parameter) else value
            for name, value in state.items()
        }

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average while the `with` block runs, and its own weights after it, to
        the bit."""
        kept = {p: p.detach().clone() for p in self._average}
        self.adopt()
        try:
            yield
        finally:
            _give(kept)

    def adopt(self) -> None:
        """Give the model the average for good."""
        _give(self._average)


@torch.no_grad()
def _give(values: Mapping[nn.Parameter, Tensor]) -> None:
    for p, value in values.items():
        p.copy_(value)
