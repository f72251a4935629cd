"""stage_preview: what one stage will do, in numbers; trains nothing and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from lmkit.config import Experiment, Stage, blame, build
from lmkit.data import InMemory, Source, prepare
from lmkit.errors import DataError
from lmkit.lab.estimate import Memory, estimate_memory
from lmkit.lab.peek import peek
from lmkit.model import LMBase
from lmkit.optim import OptimizerSet
from lmkit.prompts import Prompt
from lmkit.ranks.world import World
from lmkit.text import Batch, Tokenizer
from lmkit.train.loading import find_checkpoint
from lmkit.train.memory import MicroBatch
from lmkit.train.objective import Objective, Scene, open_objective, rate_scale
from lmkit.train.parameters import freeze
from lmkit.train.precision import Precision
from lmkit.train.runner import LMRunnerBase
from lmkit.train.stage_data import StageData, report_notes
from lmkit.train.stage_run import StageRun

RATE_POINTS = 60  # places at which the schedule is looked at
SHOWN_ROWS = 3
# Of a source that does not tell its size; a small share, so that 0.1 epochs of it are some rows.
UNKNOWN_SHARE = 1e-6


@dataclass(frozen=True)
class Passage:
    """Tokens of a row that are all trained, or all not, as text."""

    text: str
    trained: bool


@dataclass(frozen=True)
class OptimizerPreview:
    """An optimizer of a stage, its share of the model, and its rate where the schedule is at 1.

    Attributes:
        rate, decay: None where it has none; the decay that most of its parameters have. The decay
            is None too where it may follow from a length that is not known.
        why: where they come from, if its spec says and the length is known.
    """

    label: str
    parameters: int
    tensors: int
    rate: float | None
    decay: float | None
    why: str


@dataclass(frozen=True)
class StagePreview:
    """A stage in numbers, for a single rank.

    Attributes:
        data: what its source says of itself.
        available: the data lies on this disk.
        data_tokens, data_rows: of its training text; None where nothing tells.
        counted: they, and epochs or steps with them, are counted and not estimated from the
            beginning of the text.
        follows_data: the stage's length was given in epochs.
        steps: None, like tokens and epochs, where they follow from a size that is not known.
        tokens: of the whole stage, padding included; None too where an objective makes its own.
        step: a step in words, where its objective counts other things than tokens.
        width: positions of a row.
        trained: share of the first rows' positions that are trained; None without data.
        micro_batch: rows that go through the model at once.
        micro_steps: how often they do for a step.
        why: where the numbers come from that `auto` stands for, by the stage's key.
        schedule: the factor on the learning rates, at equal distances.
        rows: the beginning of the first batch; none where the data is not here.
        memory: at most so much at once.
    """

    name: str
    data: str
    available: bool
    data_tokens: int | None
    data_rows: int | None
    counted: bool
    follows_data: bool
    steps: int | None
    tokens: int | None
    epochs: float | None
    step: str
    width: int
    batch_rows: int
    batch_tokens: int
    trained: float | None
    micro_batch: int
    micro_steps: int
    why: Mapping[str, str]
    optimizers: tuple[OptimizerPreview, ...]
    schedule: tuple[float, ...]
    rows: tuple[tuple[Passage, ...], ...]
    memory: Memory


@dataclass(frozen=True)
class Seen:
    """What is at hand of a stage's data.

    Attributes:
        experiment: the one to open the stage of; without objectives where there is no data.
        share: how much of the data it is; None where nothing tells.
        tokens: of all of the data; None where nothing tells.
    """

    experiment: Experiment
    data: StageData
    share: float | None
    tokens: int | None


class StageLook:
    """Looks at the stages of one experiment, with one model.

    Args:
        model: may be without numbers.
        mode: what the model was made in.
        cache: where to tokenise some text; may be deleted afterwards.
        is_learned: False where the model's vocabulary is a stand-in, which counts other tokens.
    """

    def __init__(
        self,
        experiment: Experiment,
        runner: LMRunnerBase,
        model: LMBase,
        mode: AbstractContextManager[Any],
        precision: Precision,
        cache: Path,
        *,
        is_learned: bool = True,
    ) -> None:
        self.experiment = experiment
        self.runner = runner
        self.model = model
        self.tokenizer = model.need_tokenizer()
        self.mode = mode
        self.precision = precision
        self.cache = cache
        self.is_learned = is_learned
        self.micro_batch = MicroBatch(runner.max_batch_size, precision.device)
        self._memory: dict[Any, Memory] = {}

    def at(self, index: int) -> tuple[StagePreview, Batch]:
        """The stage `index`, and a first micro-batch; a made-up one where the data is not here.

        Raises:
            ConfigError, DataError: what `lmkit train` would raise at the stage's beginning.
        """
        stage = self.experiment.stages[index]
        with blame(stage.at, stage.places):
            return self._look(index, stage)

    def first_rows(self, index: int, count: int) -> Batch:
        """The first rows that the stage `index` trains on, as the model is given them.

        Raises:
            DataError: the data is not on this disk yet, or there is none.
            ConfigError: the stage learns from what the model writes: there are no rows before.
        """
        stage = self.experiment.stages[index]
        objective = open_objective(stage, self.experiment.folder)
        with blame(stage.data.at):
            source = build(stage.data, folder=self.experiment.folder)
            if not source.available():
                raise DataError(
                    f"{source.describe()}: it is not on this disk yet", hint="`lmkit train` gets it"
                )
            seen = self._see(source, stage, objective)
            share = seen.share or UNKNOWN_SHARE
            run = StageRun.open(seen.experiment, index, seen.data, self.model, share)
            return run.rows.batch(0, min(count, run.rows.rows_per_epoch))

    def _look(self, index: int, stage: Stage) -> tuple[StagePreview, Batch]:
        self._check_beginning(stage, index)
        objective = open_objective(stage, self.experiment.folder)
        with blame(stage.data.at):
            source = build(stage.data, folder=self.experiment.folder)
            described, available = source.describe(), source.available()
            seen = self._see(source, stage, objective) if available else self._stand_in()
        share = seen.share or UNKNOWN_SHARE
        run = StageRun.open(seen.experiment, index, seen.data, self.model, share)
        run.read_tasks(unavailable=False)
        if type(self.runner).evaluate is LMRunnerBase.evaluate:
            run.check_best()
        freeze(self.model, stage)
        with self.mode:
            optimizers = self.runner.construct_optimizer(self.model, run)
        self.micro_batch.choose(run.plan.width, run.plan.rows_per_batch)
        rows = self.micro_batch.rows
        batch = run.objective.trial_batch(run.rows, self._scene(run)).rows(0, rows)
        sized = seen.share is not None
        is_known = sized or stage.epochs is None
        step = objective.describe(run.plan)
        if stage.batch_tokens == "auto" and not is_known:
            step = "batch_tokens: auto goes by the length, which is counted when training begins"
        decoded = [passages(batch, row, self.tokenizer) for row in range(min(rows, SHOWN_ROWS))]
        return StagePreview(
            name=stage.name,
            data=described,
            available=available,
            data_tokens=seen.tokens,
            data_rows=run.plan.rows_per_epoch if sized else None,
            counted=seen.share == 1.0,
            follows_data=stage.epochs is not None,
            steps=run.plan.steps if is_known else None,
            tokens=run.plan.tokens if is_known and not step else None,
            epochs=run.plan.epochs if sized else stage.epochs,
            step=step,
            width=run.plan.width,
            batch_rows=run.plan.rows_per_batch,
            batch_tokens=run.plan.batch_tokens,
            trained=batch.count / batch.inputs.numel() if available and not step else None,
            micro_batch=rows,
            micro_steps=-(-run.plan.rows_per_batch // rows),
            why=dict(run.plan.why) if is_known else {},
            optimizers=tuple(_optimizer_previews(optimizers, stage, objective, is_known)),
            schedule=tuple(_factors(run)),
            rows=tuple(decoded) if available and self.is_learned else (),
            memory=self._estimate(optimizers, rows, batch.documents is not None, bool(stage.ema)),
        ), batch

    def _check_beginning(self, stage: Stage, index: int) -> None:
        """Make sure that the held-out source and the weights to start from are there."""
        if stage.validation is not None:
            with blame(stage.validation.at):
                build(stage.validation, folder=self.experiment.folder).describe()
        before = [earlier.name for earlier in self.experiment.stages[:index]]
        if stage.init_from is not None and stage.init_from not in before:
            with blame(stage.places.get("init_from", stage.at)):
                find_checkpoint(stage.init_from, for_inference=True)

    def _see(self, source: Source, stage: Stage, objective: Objective) -> Seen:
        """The beginning of a text; all of what an objective reads in its own way."""
        if type(objective).prepare is not Objective.prepare:
            data = objective.prepare(self.experiment, stage, self.model)
            return Seen(self.experiment, data, 1.0, None)
        seen = peek(
            source,
            self.tokenizer,
            include_prompts=stage.include_prompts,
            max_len=self.model.max_len,
            cache=self.cache,
        )
        if not seen.store.token_count:
            at = f"stage '{stage.name}', {stage.data.path}"
            raise DataError("there is no training text", at=at)
        report_notes(stage.name, seen.store.notes)
        # held-out rows, which are not looked at, must be there
        data = StageData(seen.store, seen.store, fingerprint="")
        if not self.is_learned:
            return Seen(self.experiment, data, None, None)
        return Seen(self.experiment, data, seen.share, seen.tokens)

    def _stand_in(self) -> Seen:
        """A row of numbers, in words, where there is no data yet."""
        max_len = self.model.max_len
        source = InMemory([Prompt(text=" ".join(map(str, range(2 * max_len))))], holdout=0.0)
        options: dict[str, Any] = {"max_len": max_len, "cache": self.cache, "progress": False}
        store = prepare(source, self.tokenizer, "train", **options)
        plain = tuple(replace(stage, objective=None) for stage in self.experiment.stages)
        experiment = replace(self.experiment, stages=plain)
        return Seen(experiment, StageData(store, store, fingerprint=""), None, None)

    def _scene(self, run: StageRun) -> Scene:
        return Scene(
            stage=run.stage,
            plan=run.plan,
            position=0,
            model=self.model,
            world=World(0, 1, self.precision.device),
            precision=self.precision,
            micro_batch=self.micro_batch,
            seed=0,
            reference=lambda: self.model,
        )

    def _estimate(
        self, optimizers: OptimizerSet, rows: int, isolated: bool, averaged: bool
    ) -> Memory:
        """The memory; stages that differ in rates only are rehearsed once."""
        kinds = tuple((each.class_name, str(each.names)) for each in optimizers.members)
        key = (kinds, rows, isolated, averaged)
        if key not in self._memory:
            with self.mode:
                self._memory[key] = estimate_memory(
                    self.model, optimizers, rows, isolated, self.precision, averaged
                )
        return self._memory[key]


def passages(batch: Batch, row: int, tokenizer: Tokenizer) -> tuple[Passage, ...]:
    """A row as text, cut where training begins and ends; its padding is left out."""
    ids = [int(batch.inputs[row, 0]), *batch.targets[row].tolist()]
    trained = [False, *(batch.weights[row] != 0).tolist()]
    stop = len(ids)
    while stop > 1 and ids[stop - 1] == tokenizer.eos and not trained[stop - 1]:
        stop -= 1
    pairs = zip(trained[:stop], ids[:stop], strict=True)
    return tuple(
        Passage(tokenizer.decode(token for _, token in group), is_trained)
        for is_trained, group in groupby(pairs, key=lambda pair: pair[0])
    )


def _optimizer_previews(
    optimizers: OptimizerSet, stage: Stage, objective: Objective, is_known: bool
) -> list[OptimizerPreview]:
    """The stage's optimizers; what follows from a length that is not known is left out."""
    rates, scale = optimizers.rates, rate_scale(stage, objective)
    by = type(objective).__name__ if stage.lr_scale is None else "lr_scale"
    scaled = f" x {scale:g} by {by}" if scale != 1 else ""
    tell = is_known or stage.optimizers != "auto"
    return [
        OptimizerPreview(
            label=member.label,
            parameters=sum(p.numel() for _, p in member.named()),
            tensors=sum(1 for _ in member.named()),
            rate=rates[member.label] * scale if member.label in rates else None,
            decay=member.optimizer.param_groups[0].get("weight_decay") if tell else None,
            why=member.why + scaled if member.why and tell else "",
        )
        for member in optimizers.members
    ]


def _factors(run: StageRun) -> Sequence[float]:
    """The schedule where the steps are, at RATE_POINTS of them, or all."""
    steps = run.plan.steps
    points = min(RATE_POINTS, steps)
    places = [round(i * (steps - 1) / max(points - 1, 1)) for i in range(points)]
    return [float(run.schedule(step / steps)) for step in places]
