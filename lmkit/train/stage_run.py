"""stage_run: one stage while it runs: its plan, its batches, its rates; knows no checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from lmkit.checkpoints.best import Best
from lmkit.config import Experiment, Stage, blame
from lmkit.data import BatchStream, open_rows
from lmkit.data.stream import RowSource
from lmkit.errors import ConfigError, DataError, did_you_mean
from lmkit.evals.bits_per_byte import BitsPerByte
from lmkit.evals.task import Task, open_tasks, read_problems
from lmkit.model import LMBase
from lmkit.optim.schedule import Schedule, make_schedule
from lmkit.ranks.world import World
from lmkit.text import Batch
from lmkit.train.objective import Objective, open_objective, rate_scale
from lmkit.train.plan import StagePlan, plan_stage
from lmkit.train.stage_data import StageData


class StageRun:
    """A stage on its way: where it stands and what comes next.

    Attributes:
        plan: the stage in numbers.
        objective: what makes batches of the rows.
        rows: what the data was laid out in.
        schedule: progress in 0..1 -> the factor on every optimizer's rate.
        tasks: what the model is asked at each evaluation.
        step: optimizer steps done.
        position: rows of the stage consumed, over all ranks.
    """

    def __init__(
        self,
        stage: Stage,
        plan: StagePlan,
        objective: Objective,
        rows: RowSource,
        validation: RowSource | None,
        schedule: Schedule,
        tasks: Sequence[Task] = (),
    ) -> None:
        self.stage = stage
        self.plan = plan
        self.objective = objective
        self.rows = rows
        self.schedule = schedule
        self.tasks = tasks
        self.step = 0
        self.position = 0
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
                hint="declare forward(tokens, cache=None, documents=None)",
                key="isolate_documents",
            )
        objective = open_objective(stage, experiment.folder)
        # every stage shuffles in its own way; the held-out rows are the same for all
        rows = objective.lay_out(data, stage, model, seed=experiment.seed * 1000 + index)
        validation = _validation_rows(data, stage, model)
        epoch = round(rows.rows_per_epoch / share)
        plan = plan_stage(stage, model, epoch, step=step, position=position)
        schedule = make_schedule(stage.schedule, steps=plan.steps)
        tasks = open_tasks(stage.evaluate.tasks, experiment.folder)
        run = cls(stage, plan, objective, rows, validation, schedule, tasks)
        run.step, run.position = step, position
        return run

    def check_best(self) -> None:
        """Make sure that `checkpoint.best` is something that evaluations will measure.

        Raises:
            ConfigError: it is not.
        """
        wanted = self.stage.checkpoint.best
        if wanted is None:
            return
        best = Best.of(wanted).metric
        measures = self.stage.evaluate.bits_per_byte and self._validation is not None
        measured = [field.name for field in fields(BitsPerByte)] if measures else []
        measured += [task.name for task in self.tasks]
        if best not in measured:
            raise ConfigError(
                f"stage '{self.stage.name}': no best to keep, {best!r} is not measured",
                hint=did_you_mean(best, measured) or f"measured: {measured or 'nothing'}",
                key="checkpoint",
            )

    def read_tasks(self, *, unavailable: bool = True) -> None:
        """Read the problems that evaluations will ask, before the ranks connect.

        Args:
            unavailable: also those that have to be downloaded.

        Raises:
            DataError: a task cannot be read, or has nothing held out.
            PluginError: it fails.
        """
        for spec, task in zip(self.stage.evaluate.tasks, self.tasks, strict=True):
            with blame(spec.at):
                if (unavailable or task.available()) and not read_problems(task, "validation"):
                    raise DataError(f"the task {task.name} has no problem held out")

    @property
    def progress(self) -> float:
        """How much of the stage is done, 0..1."""
        return self.step / self.plan.steps

    @property
    def rate(self) -> float:
        """The factor on every optimizer's learning rate now."""
        return rate_scale(self.stage, self.objective) * self.schedule(self.progress)

    @property
    def done(self) -> bool:
        """True when no step is left."""
        return self.step >= self.plan.steps

    @property
    def evaluation_due(self) -> bool:
        """True after every `evaluate.every` steps, and at the stage's end."""
        return _due(self.step, self.stage.evaluate.every) or self.done

    @property
    def checkpoint_due(self) -> bool:
        """True after every `checkpoint.every` steps, where one is to stay, and at the stage's
        end."""
        due = _due(self.step, self.stage.checkpoint.every) or self.checkpoint_stays
        return due or self.done

    @property
    def checkpoint_stays(self) -> bool:
        """True after every `checkpoint.keep_every` steps."""
        return _due(self.step, self.stage.checkpoint.keep_every)

    @property
    def next_rows(self) -> tuple[int, int]:
        """The first row of the stage that the next step takes, and the one after its last."""
        return self.position, min(self.position + self.plan.rows_per_batch, self.plan.last_row)

    def advance(self) -> int:
        """Count one step; gives the rows that it consumed."""
        first, end = self.next_rows
        self.step += 1
        self.position = end
        return end - first

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


def _validation_rows(data: StageData, stage: Stage, model: LMBase) -> RowSource | None:
    if not data.validation:
        return None
    return open_rows(
        data.validation,
        width=model.max_len,
        tokenizer=model.need_tokenizer(),
        isolate=stage.isolate_documents,
        pack=model.accepts_documents,
        seed=0,
    )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
