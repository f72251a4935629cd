"""plan: from a stage's wishes (tokens, epochs, auto; batch_tokens) to rows and steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lmkit.config import Stage
from lmkit.errors import ConfigError
from lmkit.model import LMBase
from lmkit.model.scaling import (
    BATCH_POWER,
    REFERENCE_BATCH,
    REFERENCE_TOKENS,
    TOKENS_PER_PARAMETER,
    best_batch,
    best_batch_for_steps,
    best_tokens,
    power_of_two,
)
from lmkit.train.display import readable_count


@dataclass(frozen=True)
class StagePlan:
    """What a stage will do, in numbers.

    Attributes:
        steps: optimizer steps.
        rows_per_batch: rows of one global batch.
        width: tokens of a row.
        last_row: rows of the whole stage; the last batch is ragged where they do not divide.
        rows_per_epoch: rows that one pass over the data has.
        why: where the numbers come from that `auto` stands for, by the stage's key.
    """

    steps: int
    rows_per_batch: int
    width: int
    last_row: int
    rows_per_epoch: int
    why: Mapping[str, str] = field(default_factory=dict)

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
    why: dict[str, str] = {}
    tokens = _horizon(stage, model, rows_per_epoch, why)
    rows = _rows_per_batch(stage, width, tokens, why)
    if stage.epochs is not None:
        last_row = round(stage.epochs * rows_per_epoch)
    elif stage.steps is not None:
        last_row = position + max(0, stage.steps - step) * rows
    elif stage.tokens == "auto":  # whole steps within it, as nanochat counts them
        last_row = max(1, int(tokens) // (rows * width)) * rows
    else:
        last_row = math.ceil(tokens / (rows * width)) * rows
    if last_row < 1:
        raise ConfigError(
            f"stage '{stage.name}' has no step: {stage.epochs} epochs of {rows_per_epoch} rows",
            hint="ask for more epochs, or for steps: or tokens:",
            key="epochs",
        )
    steps = step + math.ceil(max(0, last_row - position) / rows)
    return StagePlan(steps, rows, width, last_row, rows_per_epoch, why)


def _horizon(stage: Stage, model: LMBase, rows_per_epoch: int, why: dict[str, str]) -> float:
    """Tokens of the stage as it asks for them; NaN where they follow from its batches."""
    if stage.epochs is not None:
        return stage.epochs * rows_per_epoch * model.max_len
    if stage.steps is not None:
        return math.nan
    if stage.tokens == "auto":
        size = model.scaling_parameter_count()
        if not size:
            raise ConfigError(
                f"stage '{stage.name}': tokens: auto goes by the parameters of matrices and head, "
                f"and {type(model).__name__} has none",
                hint="write a number of tokens",
                key="tokens",
            )
        why["tokens"] = (
            f"{TOKENS_PER_PARAMETER} x {size:,} parameters of matrices and head = "
            f"{best_tokens(size):,} (nanochat)"
        )
        return best_tokens(size)
    assert stage.tokens is not None  # exactly one horizon: checked with the experiment
    return stage.tokens


def _rows_per_batch(stage: Stage, width: int, tokens: float, why: dict[str, str]) -> int:
    if stage.batch_tokens == "auto":
        return _best_rows(stage, width, tokens, why)
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
            key="batch_tokens",
        )
    return rows


def _best_rows(stage: Stage, width: int, tokens: float, why: dict[str, str]) -> int:
    """Rows of the batch that suits the stage's length: a power of two of tokens, in whole rows."""
    if stage.steps is not None:
        best = best_batch_for_steps(stage.steps)
        tokens = stage.steps * best
    else:
        best = best_batch(max(tokens, width))
    rows = max(1, round(power_of_two(best) / width))
    why["batch_tokens"] = (
        f"2^{math.log2(REFERENCE_BATCH):.0f} x ({readable_count(tokens)} / "
        f"{readable_count(REFERENCE_TOKENS)} tokens)^{BATCH_POWER} = {round(best):,}, "
        "as a power of two"
        + (f" and whole rows of {width}" if rows * width != power_of_two(best) else "")
        + " (nanochat)"
    )
    return rows
