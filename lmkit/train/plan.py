"""plan: from a stage's wishes (tokens, epochs, auto; batch_tokens) to rows and steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmkit.config import Stage
from lmkit.errors import ConfigError
from lmkit.model import LMBase

# Tokens per scaling parameter for `tokens: auto`: what nanochat measured for its recipe (10.5-12).
AUTO_TOKENS_PER_PARAMETER = 12


@dataclass(frozen=True)
class StagePlan:
    """What a stage will do, in numbers.

    Attributes:
        steps: optimizer steps.
        rows_per_batch: rows of one global batch.
        width: tokens of a row.
        last_row: rows of the whole stage; the last batch is ragged where they do not divide.
        rows_per_epoch: rows that one pass over the data has.
    """

    steps: int
    rows_per_batch: int
    width: int
    last_row: int
    rows_per_epoch: int

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.rows_per_batch * self.width

    @property
    def tokens(self) -> int:
        """Tokens of the whole stage, padding included."""
        return self.last_row * self.width

    @property
    def epochs(self) -> float:
        """Passes over the data."""
        return self.last_row / self.rows_per_epoch


def plan_stage(
    stage: Stage, model: LMBase, rows_per_epoch: int, *, step: int = 0, position: int = 0
) -> StagePlan:
    """Work out a stage's steps.

    Args:
        step: steps done before, with a batch size that may have been another one,
        position: and the rows that they consumed.

    Raises:
        ConfigError: `batch_tokens` is no multiple of the row length, or the stage has no step.
    """
    width = model.max_len
    rows = _rows_per_batch(stage, width)
    if stage.epochs is not None:
        last_row = round(stage.epochs * rows_per_epoch)
    elif stage.steps is not None:
        last_row = position + max(0, stage.steps - step) * rows
    else:
        tokens = stage.tokens
        if tokens == "auto":
            tokens = AUTO_TOKENS_PER_PARAMETER * model.scaling_parameter_count()
        assert isinstance(tokens, int)  # exactly one horizon: checked with the experiment
        last_row = math.ceil(tokens / (rows * width)) * rows
    if last_row < 1:
        raise ConfigError(
            f"stage '{stage.name}' has no step: {stage.epochs} epochs of {rows_per_epoch} rows",
            hint="ask for more epochs, or for steps: or tokens:",
        )
    steps = step + math.ceil(max(0, last_row - position) / rows)
    return StagePlan(steps, rows, width, last_row, rows_per_epoch)


def _rows_per_batch(stage: Stage, width: int) -> int:
    if stage.batch_tokens is None:
        assert stage.batch_size is not None
        return stage.batch_size
    rows, rest = divmod(stage.batch_tokens, width)
    if rest or rows == 0:
        near = [tokens for tokens in (rows * width, (rows + 1) * width) if tokens]
        raise ConfigError(
            f"stage '{stage.name}': batch_tokens {stage.batch_tokens} is no multiple of the "
            f"model's max_len {width}",
            hint="nearest: " + " or ".join(str(n) for n in near),
        )
    return rows
