"""stage_run: one stage while it runs: its plan, its batches, its rates; knows no checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from torch import nn

from lmkit.config import Experiment, Stage, build
from lmkit.data import (
    BatchStream,
    MixedRows,
    MixedStores,
    Rows,
    TokenStore,
    open_rows,
    prepare,
)
from lmkit.errors import ConfigError, DataError, did_you_mean
from lmkit.evals.bits_per_byte import BitsPerByte
from lmkit.model import LMBase
from lmkit.optim.schedule import Schedule, make_schedule
from lmkit.optim.selection import select
from lmkit.text import Batch
from lmkit.train.plan import StagePlan, plan_stage
from lmkit.train.world import World

logger = logging.getLogger(__name__)

NOTES = {
    "trimmed": "are longer than max_len and were cut",
    "without_target": "have nothing to train on within max_len and are left out",
    "empty": "are empty and left out",
}
Store = TokenStore | MixedStores


@dataclass(frozen=True)
class StageData:
    """The tokenised data of a stage. Made before the ranks connect: no collective waits for it.

    Attributes:
        validation: None if nothing is held out.
        fingerprint: of the source's content and settings.
    """

    train: Store
    validation: Store | None
    fingerprint: str


def prepare_stage_data(experiment: Experiment, stage: Stage, model: LMBase) -> StageData:
    """Tokenise a stage's data, or open what an earlier start tokenised.

    Raises:
        DataError: the data is missing, unreadable, or has no training text.
    """
    source = build(stage.data, folder=experiment.folder)
    stores = partial(
        prepare,
        tokenizer=model.need_tokenizer(),
        include_prompts=stage.include_prompts,
        max_len=model.max_len,
    )
    train = stores(source, split="train")
    if stage.validation is None:
        validation = stores(source, split="validation")
    else:
        validation = stores(build(stage.validation, folder=experiment.folder), split="all")
    if train.token_count == 0:
        raise DataError("there is no training text", at=f"stage '{stage.name}', {stage.data.path}")
    report_notes(stage.name, train.notes)
    return StageData(train, validation if validation.token_count else None, source.fingerprint())


def report_notes(place: str, notes: Mapping[str, Any]) -> None:
    """Warn of samples that were cut or left out while the data was tokenised."""
    for key, value in notes.items():
        if isinstance(value, Mapping):
            report_notes(f"{place}, {key}", value)
        elif key in NOTES:
            logger.warning(
                "%s: %s samples %s; the first is at %s",
                place, f"{value:,}", NOTES[key], notes[f"first_{key}"],
            )  # fmt: skip


class StageRun:
    """A stage on its way: where it stands and what comes next.

    Attributes:
        plan: the stage in numbers.
        schedule: progress in 0..1 -> the factor on every optimizer's rate.
        step: optimizer steps done.
        position: rows of the stage consumed, over all ranks.
    """

    def __init__(
        self,
        stage: Stage,
        plan: StagePlan,
        rows: Rows | MixedRows,
        validation: Rows | MixedRows | None,
        schedule: Schedule,
    ) -> None:
        self.stage = stage
        self.plan = plan
        self.schedule = schedule
        self.step = 0
        self.position = 0
        self._rows = rows
        self._validation = validation

    @classmethod
    def open(
        cls,
        experiment: Experiment,
        index: int,
        data: StageData,
        model: LMBase,
        share: float = 1.0,
        *,
        step: int = 0,
        position: int = 0,
    ) -> StageRun:
        """Lay out the rows of the experiment's stage `index` and work out its plan.

        Args:
            share: how much of the stage's data `data` is; for a look ahead that reads only some.
            step: where a resumed stage stands,
            position: in steps and in rows consumed.

        Raises:
            ConfigError: the model cannot do what the stage asks of it.
        """
        stage = experiment.stages[index]
        if stage.isolate_documents and not model.accepts_documents:
            raise ConfigError(
                f"stage '{stage.name}': isolate_documents needs a model whose forward takes "
                f"documents, and that of {type(model).__name__} does not",
            )
        layout = partial(
            open_rows,
            width=model.max_len,
            tokenizer=model.need_tokenizer(),
            isolate=stage.isolate_documents,
            pack=model.accepts_documents,
        )
        # every stage shuffles in its own way; the held-out rows are the same for all
        rows = layout(data.train, seed=experiment.seed * 1000 + index)
        validation = layout(data.validation, seed=0) if data.validation else None
        epoch = round(rows.rows_per_epoch / share)
        plan = plan_stage(stage, model, epoch, step=step, position=position)
        run = cls(stage, plan, rows, validation, make_schedule(stage.schedule, steps=plan.steps))
        run.step, run.position = step, position
        return run

    def check_best(self) -> None:
        """Make sure that `checkpoint.best` is something that evaluations will measure.

        Raises:
            ConfigError: it is not.
        """
        best = self.stage.checkpoint.best
        measures = self.stage.evaluate.bits_per_byte and self._validation is not None
        measured = [field.name for field in fields(BitsPerByte)] if measures else []
        if best is not None and best not in measured:
            raise ConfigError(
                f"stage '{self.stage.name}': no best to keep, {best!r} is not measured",
                hint=did_you_mean(best, measured) or f"measured: {measured or 'nothing'}",
            )

    @property
    def progress(self) -> float:
        """How much of the stage is done, 0..1."""
        return self.step / self.plan.steps

    @property
    def rate(self) -> float:
        """The factor on every optimizer's learning rate now."""
        return self.stage.lr_scale * self.schedule(self.progress)

    @property
    def done(self) -> bool:
        """True when no step is left."""
        return self.step >= self.plan.steps

    @property
    def evaluation_due(self) -> bool:
        """True after every `evaluate.every` steps; the stage's end has its own."""
        return _due(self.step, self.stage.evaluate.every) and not self.done

    @property
    def checkpoint_due(self) -> bool:
        """True after every `checkpoint.every` steps; the stage's end has its own."""
        return _due(self.step, self.stage.checkpoint.every) and not self.done

    def advance(self) -> int:
        """Count one step; gives the rows that it consumed."""
        rows = min(self.plan.rows_per_batch, self.plan.last_row - self.position)
        self.step += 1
        self.position += rows
        return rows

    def start_stream(self, world: World) -> BatchStream:
        """This rank's batches from where the stage stands to its end, one prepared ahead."""
        return BatchStream(
            self._rows,
            rows_per_batch=self.plan.rows_per_batch,
            first_row=self.position,
            last_row=self.plan.last_row,
            rank=world.rank,
            size=world.size,
        )

    def first_batch(self, world: World) -> Batch:
        """The batch that the stream would give first."""
        with closing(self.start_stream(world)) as stream:
            return next(stream)

    def validation_batches(self, world: World, micro_batch: int) -> Iterator[Batch] | None:
        """This rank's share of the held-out rows, the same ones at every evaluation.

        None when nothing is held out.
        """
        if self._validation is None:
            return None
        wanted = max(1, self.stage.evaluate.tokens // self.plan.width)
        rows = min(self._validation.rows_per_epoch, wanted)
        return BatchStream(
            self._validation,
            rows_per_batch=micro_batch * world.size,
            last_row=rows,
            rank=world.rank,
            size=world.size,
            prefetch=False,
        )


def named_groups(model: LMBase) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """The model's parameter groups with each parameter's name; a tied one has its first name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group: [(names[id(parameter)], parameter) for parameter in members]
        for group, members in model.param_groups().items()
    }


def freeze(model: LMBase, words: tuple[str, ...]) -> None:
    """Leave parameters out of training: groups, globs over names, or `tag:NAME`.

    What an earlier stage froze is trained again; what the model itself froze stays frozen.

    Raises:
        ConfigError: a word means no parameter.
    """
    frozen = {id(parameter) for parameter in select(words, named_groups(model)).values()}
    for parameter in model.parameters():
        if not hasattr(parameter, "trains_by_itself"):
            parameter.trains_by_itself = parameter.requires_grad  # type: ignore[attr-defined]
        wanted: bool = parameter.trains_by_itself  # type: ignore[attr-defined]
        parameter.requires_grad_(wanted and id(parameter) not in frozen)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
