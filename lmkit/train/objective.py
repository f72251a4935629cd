"""objective: what a stage learns: what it makes of its data, and where its batches come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from lmkit.config import Experiment, Spec, Stage, build
from lmkit.data import BatchStream, open_rows
from lmkit.data.stream import RowSource
from lmkit.errors import ConfigError
from lmkit.model import LMBase
from lmkit.ranks.world import World
from lmkit.text import Batch
from lmkit.train.memory import MicroBatch
from lmkit.train.plan import StagePlan
from lmkit.train.precision import Precision
from lmkit.train.stage_data import StageData, prepare_stage_data


class Stream(Protocol):
    """This rank's batches, one after another. A class of one's own derives from it.

    Attributes:
        tokens: positions of the global batch that was given last, padding included.
        measures: what is known of that batch, over all ranks; logged with the step.
    """

    tokens: int
    measures: Mapping[str, float]

    def __next__(self) -> Batch:
        """The next one; StopIteration at the stage's end."""

    @property
    def waited(self) -> float:
        """Seconds that `next` took since this was last read."""

    @property
    def resumable(self) -> bool:
        """False in the midst of something that could not be made again: a stop has to wait."""
        return True

    def close(self) -> None:
        """No more are needed."""


@dataclass(frozen=True)
class Scene:
    """Where a stage stands when its stream is opened, and who takes part.

    Attributes:
        position: rows of the stage that are consumed.
        seed: of the stage; random numbers follow from it and from the rows' numbers.
        unit: rows of a step are shared out among the ranks in so many at once.
        reference: makes a copy of the model with the weights that the stage began with.
        look: is called while a batch is waited for, and leaves if the run is asked to stop.
    """

    stage: Stage
    plan: StagePlan
    position: int
    model: LMBase
    world: World
    precision: Precision
    micro_batch: MicroBatch
    seed: int
    reference: Callable[[], LMBase]
    unit: int = 1
    look: Callable[[], None] = lambda: None


class Objective:
    """What a stage learns from its data: the next token. A subclass may learn something else.

    The step is the same one for all: a batch, the weight of each of its targets, a gradient. An
    objective says where batches come from and what their targets weigh.

    Attributes:
        dropout: the model's dropout is on in the step.
        by_rows: a batch is rows of the data, and row n is the same whoever reads it.
        lr_scale: what the rates of `optimizers: auto`, made for pretraining, are multiplied by,
            unless the stage has an `lr_scale` of its own.
    """

    dropout = True
    by_rows = True
    lr_scale = 1.0

    def prepare(self, experiment: Experiment, stage: Stage, model: LMBase) -> StageData:
        """Read the stage's data, before the ranks connect.

        Raises:
            DataError: it is missing or unreadable, or there is none.
            ConfigError: the stage or the model does not suit this objective.
        """
        return prepare_stage_data(experiment, stage, model)

    def lay_out(self, data: StageData, stage: Stage, model: LMBase, seed: int) -> RowSource:
        """The rows that one pass over the data has; a step takes `plan.rows_per_batch` of them."""
        return open_rows(
            data.train,
            width=model.max_len,
            tokenizer=model.need_tokenizer(),
            isolate=stage.isolate_documents,
            pack=model.accepts_documents,
            seed=seed,
        )

    def describe(self, plan: StagePlan) -> str:
        """A step in words, where it is not `rows_per_batch` rows of tokens; empty where it is."""
        return ""

    def stream(self, rows: RowSource, scene: Scene) -> Stream:
        """Batches from where the stage stands to its end."""
        return BatchStream(
            rows,
            rows_per_batch=scene.plan.rows_per_batch,
            first_row=scene.position,
            last_row=scene.plan.last_row,
            rank=scene.world.rank,
            size=scene.world.size,
            unit=scene.unit,
            look=scene.look,
        )

    def batch_rows(self, plan: StagePlan) -> int:
        """The rows that a step has at most, over all ranks."""
        return plan.rows_per_batch

    def trial_batch(self, rows: RowSource, scene: Scene) -> Batch:
        """A batch as the stream will give, to find out what fits into the memory."""
        with closing(self.stream(rows, scene)) as stream:
            return next(stream)


def rate_scale(stage: Stage, objective: Objective) -> float:
    """The factor on all rates of a stage besides its schedule: its own, or its objective's."""
    if stage.lr_scale is not None:
        return stage.lr_scale
    return objective.lr_scale if stage.optimizers == "auto" else 1.0


def open_objective(stage: Stage, folder: str) -> Objective:
    """The objective that a stage names.

    Raises:
        ConfigError: a key of it is wrong, or it is no Objective.
    """
    if stage.objective is None:
        return Objective()
    spec: Spec = stage.objective
    objective = build(spec, folder=folder)
    if not isinstance(objective, Objective):
        hint = "derive it from lmkit.train.objective.Objective"
        raise ConfigError(f"{spec.path} is no objective", hint=hint, at=spec.at)
    return objective
