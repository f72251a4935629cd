"""stage_data: a stage's data, made ready before the ranks connect; knows no rows and no steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from lmkit.config import Experiment, Stage, blame, build
from lmkit.data import prepare
from lmkit.data.mixture import Store
from lmkit.errors import DataError
from lmkit.model import LMBase

logger = logging.getLogger(__name__)

NOTES = {
    "trimmed": "are longer than max_len and were cut",
    "without_target": "have nothing to train on within max_len and are left out",
    "tools_left_out": "call tools, for which the chat template has no place: calls are left out",
    "empty": "are empty and left out",
}


@dataclass(frozen=True)
class StageData:
    """The data of a stage. Made before the ranks connect: no collective waits for a tokenizer.

    Attributes:
        train: tokens; or what else the stage's objective makes its batches of.
        validation: tokens; None if nothing is held out.
        fingerprint: of the source's content and settings.
    """

    train: Any
    validation: Store | None
    fingerprint: str


def prepare_stage_data(
    experiment: Experiment, stage: Stage, model: LMBase, *, pairs: bool = False
) -> StageData:
    """Tokenise a stage's data, or open what an earlier start tokenised.

    Args:
        pairs: it is of preferences. All are trained: nothing is measured on held-out ones.

    Raises:
        DataError: the data is missing, unreadable, or has no training text.
    """
    source = build(stage.data, folder=experiment.folder)
    stores = partial(
        prepare,
        tokenizer=model.need_tokenizer(),
        include_prompts=stage.include_prompts,
        max_len=model.max_len,
        pairs=pairs,
    )
    # epochs are counted in rows, which a source in shards has when all of them are there
    train = stores(source, split="all" if pairs else "train", whole=stage.epochs is not None)
    validation: Store | None = None
    if stage.validation is not None:
        with blame(stage.validation.at):
            validation = stores(build(stage.validation, folder=experiment.folder), split="all")
    elif not pairs:
        validation = stores(source, split="validation")
    if train.token_count == 0:
        raise DataError("there is no training text", at=f"stage '{stage.name}', {stage.data.path}")
    report_notes(stage.name, train.notes)
    if validation is not None and not validation.token_count:
        validation = None
    return StageData(train, validation, source.fingerprint())


def report_notes(place: str, notes: Mapping[str, Any]) -> None:
    """Warn of samples that were cut or left out, all or in part, while the data was tokenised."""
    for key, value in notes.items():
        if isinstance(value, Mapping):
            report_notes(f"{place}, {key}", value)
        elif key in NOTES:
            logger.warning(
                "%s: %s samples %s; the first is at %s",
                place, f"{value:,}", NOTES[key], notes[f"first_{key}"],
            )  # fmt: skip
