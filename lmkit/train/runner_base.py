"""runner_base: says when. Stages, steps, evaluations, checkpoints, stops, in the order they happen;
how each is done stands next door (Learner, StageRun, CheckpointDir, Metrics).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch

from lmkit.checkpoints.checkpoint import Checkpoint, CheckpointDir, checkpoint_bytes
from lmkit.checkpoints.saver import Saver
from lmkit.config import Stage, blame
from lmkit.errors import CheckpointError, ConfigError, DistributedError, NumericError, Stopped
from lmkit.model import LMBase
from lmkit.text import Batch
from lmkit.train.by_hand import ByHand
from lmkit.train.diagnosis import write_diagnosis
from lmkit.train.evaluation import measure, write_samples
from lmkit.train.guard import StopFlag, exit_code_of
from lmkit.train.learner import Step
from lmkit.train.metrics import Metrics
from lmkit.train.objective import Scene, Stream, open_objective
from lmkit.train.peak import Peak, find_peak
from lmkit.train.precision import Precision
from lmkit.train.profile import Profile
from lmkit.train.progress import Progress
from lmkit.train.run_folder import RunFolder
from lmkit.train.stage_data import StageData
from lmkit.train.stage_run import StageRun, freeze


class LMRunnerBase(ByHand):
    """Owns optimizers, gradient accumulation, stages, checkpoints and DDP of one model.

    Two ways in: `fit()` runs the stages of an experiment; `initialize`, `train`, `validate`,
    `generate` and `save` drive a model by hand, without any YAML. Both take the settings of ByHand.
    """

    _data_fingerprint = ""  # of the stage under way; a model driven by hand has none
    _measured: Mapping[str, float] = {}  # by the evaluation after the last step, if there was one
    _peak: Peak | None = None  # of this rank's device, where it is known
    _profile: Profile | None = None  # of the steps under way, where one is asked for
    _beginning: dict[str, str] | None = None  # of the stage under way: see RunFolder.note

    def fit(self, allow_change: Sequence[str] = (), profile: int = 0) -> int:
        """Run the experiment's stages, from the newest checkpoint on where there is one.

        Args:
            allow_change: keys (globs) that may differ from the experiment the run began with.
            profile: steps to watch with torch's profiler, after the first three.

        Returns:
            the optimizer steps done now: 0 when the run was finished before.

        Raises:
            Stopped: a signal asked to; everything is saved.
            NumericError: a loss was not finite.
            CheckpointError: the experiment changed, or no checkpoint is good.
        """
        if self.experiment is None:
            raise ConfigError("fit needs an experiment", hint="or use initialize() and train()")
        torch.manual_seed(self.seed)
        self.initialize(for_train=False)
        self.folder = RunFolder(self.experiment, allow_change)
        with ExitStack() as stack:
            # before the ranks connect: no collective waits for a tokenizer
            data = [self._prepare(stage) for stage in self.experiment.stages]
            optimizers: dict[str, Any] = {}
            for index, each in enumerate(data):
                with blame(self.experiment.stages[index].at, self.experiment.stages[index].places):
                    optimizers = self._rehearse(index, each, optimizers)
            # from here on a signal waits for the step's end; until here there is nothing to save
            self.stop = stack.enter_context(StopFlag())
            if self.world.is_main:
                stack.enter_context(self.folder.lock())
            self.world.connect()
            stack.callback(self.world.disconnect)
            resume = self._begin()
            stack.enter_context(self.saver)
            begun_at = self.progress.step
            if self.world.is_main:
                self._peak = find_peak(self.world.device, self.precision.name)
                self.saver.reserve(checkpoint_bytes(self.model))
            folder = self.folder.path if self.world.is_main else None
            self.metrics = stack.enter_context(Metrics(folder, begun_at if resume else None))
            if profile and folder is not None:
                where = folder / "profile"
                self._profile = Profile(where, profile, self.world.device, self.metrics.say)
                stack.callback(self._profile.close)
            for index in range(self.progress.stage_index, len(data)):
                self.run_stage(index, data[index], resume)
                resume = None
            self.metrics.summary()
            return self.progress.step - begun_at

    def run_stage(self, index: int, data: StageData, resume: Checkpoint | None = None) -> None:
        """Train one stage to its end; from `resume`, a checkpoint within it, where given."""
        self._measured = {}
        run = self._open_stage(index, data, resume)
        if run.done:
            return
        stream = run.objective.stream(run.rows, self._scene(run))
        speed = self._full_speed(run)
        self.metrics.begin_stage(run.stage.name, run.plan.steps, run.step, speed)
        try:
            while not run.done:
                if stream.resumable:
                    self._leave_if_asked(run)
                self.train_step(stream, run)
                self.saver.check()
                if run.evaluation_due:
                    self._measured = self.evaluate(run)
                if run.checkpoint_due or self._is_best(run):
                    self.save_checkpoint(run)
            self._measured = self.evaluate(run)
            self.save_checkpoint(run)
            self.await_checkpoint()
        finally:
            stream.close()

    def train_step(self, stream: Stream, run: StageRun) -> Step:
        """Take a batch, set the rates, accumulate and step, record."""
        assert self.optimizers is not None
        started = time.perf_counter()
        batch = next(stream)
        self.optimizers.set_rates(run.rate)
        step = self._learn(batch, run.stage.clip)
        self._record(run, step, stream, time.perf_counter() - started)
        if self._profile is not None:
            self._profile.after_step(last=run.done)
        return step

    @torch.no_grad()
    def evaluate(self, run: StageRun) -> dict[str, float]:
        """What the stage wants measured, and samples; logged, and the numbers given back.

        The same rows every time and on any number of ranks; training's random numbers stay as
        they are.
        """
        started = time.perf_counter()
        found = measure(self.model, run, self.world, self.precision, self.micro_batch.rows)
        samples: list[tuple[str, str]] = []
        if self.world.is_main:
            samples = write_samples(self.model, run.stage.evaluate, self.seed)
        seconds = time.perf_counter() - started
        self.metrics.evaluation(self.progress.step, run.stage.name, found, samples, seconds)
        return found

    def save_checkpoint(self, run: StageRun) -> None:
        """Copy all that a resume needs, and write it while training goes on. The main rank does."""
        if self.world.is_main:
            self.metrics.flush()
            self.saver.save(self._contents(run.stage.name, self._measured))

    def await_checkpoint(self) -> None:
        """Until the last checkpoint is on the disk, for every rank to read."""
        self.saver.wait()
        self.world.barrier()

    # --- the parts of a run -------------------------------------------------------------------

    def _learn(self, batch: Batch, clip: float | None) -> Step:
        try:
            return super()._learn(batch, clip)
        except NumericError as error:
            if self.experiment is not None:
                error.at = f"step {self.progress.step + 1}"
                place = write_diagnosis(self.folder.path, self.model, batch, self.progress.step + 1)
                error.hint += f"; {place} holds the batch and where it began"
            raise

    def _record(self, run: StageRun, step: Step, stream: Stream, seconds: float) -> None:
        self._measured = {}
        rows = run.advance()
        self.progress.stage_step, self.progress.position = run.step, run.position
        self.progress.count(run.stage.name, rows, stream.tokens, step.loss.count, seconds)
        assert self.optimizers is not None
        self.metrics.step(
            self.progress.step,
            step.loss,
            tokens=stream.tokens,
            seconds=seconds,
            waited=stream.waited,
            grad_norm=step.grad_norm,
            rates=self.optimizers.rates,
            **stream.measures,
        )

    def _full_speed(self, run: StageRun) -> float | None:
        """Tokens a second at the peak of all devices; None where that is not known."""
        flops = self.model.flops_per_token(run.plan.width)
        if self._peak is None or not flops:
            return None
        return self._peak.flops * self.world.size / flops

    def _begin(self) -> Checkpoint | None:
        """Take the run up where its newest checkpoint stands, or begin it."""
        assert self.experiment is not None
        best = {stage.name: stage.checkpoint.best for stage in self.experiment.stages}
        self.checkpoints = CheckpointDir(self.folder.checkpoints, best=best)
        self.saver = Saver(self.checkpoints, self.world.device)
        if self.world.is_main:
            self.checkpoints.prepare(checkpoint_bytes(self.model))
        self.world.barrier()
        if self.precision_policy == "auto" and self.world.max(self.precision.name == "fp32"):
            # every rank has timed a product of its own: all take what suits each
            self.precision = Precision("fp32", self.world.device)
        resume = self.folder.find_resume()
        self._agree_on(resume)
        if resume is not None:
            resume.check_tokenizer(self.model, same_chat=True)
            resume.load_weights(self.model)
            self.progress = Progress.from_state(resume.state["progress"])
            if self.precision_policy == "auto":  # a probe may have said otherwise then
                self.precision = Precision(resume.state["precision"]["name"], self.world.device)
            self.precision.load_state_dict(resume.state["precision"])
        if self.world.is_main:
            self.folder.write_experiment()
        return resume

    def _agree_on(self, resume: Checkpoint | None) -> None:
        step = resume.step if resume else -1
        if self.world.min(step) != self.world.max(step):
            raise DistributedError(
                f"the ranks found different checkpoints in {self.folder.path}",
                hint="put `out` on a file system that all nodes see",
            )

    def _prepare(self, stage: Stage) -> StageData:
        assert self.experiment is not None
        with blame(stage.data.at):
            objective = open_objective(stage, self.experiment.folder)
            return objective.prepare(self.experiment, stage, self.model)

    def _rehearse(self, index: int, data: StageData, before: Mapping[str, Any]) -> dict[str, Any]:
        """Open a stage for a look: its errors are due before anything is written, not at night.

        Args:
            before: the optimizers of the stage before, in words; gives back those of this one.
        """
        assert self.experiment is not None
        stage = self.experiment.stages[index]
        freeze(self.model, stage)
        run = StageRun.open(self.experiment, index, data, self.model)
        run.read_tasks()
        optimizers = self.construct_optimizer(self.model, run)
        if stage.optimizer_state == "inherit":
            try:
                optimizers.check(before)
            except CheckpointError as error:
                raise ConfigError(
                    f"stage '{stage.name}' cannot inherit the state of the optimizers before it: "
                    f"{error.what}",
                    hint="write optimizer_state: fresh",
                    key="optimizer_state",
                ) from error
        if type(self).evaluate is LMRunnerBase.evaluate:
            run.check_best()
        if stage.init_from and stage.init_from not in [s.name for s in self.experiment.stages]:
            with blame(stage.places.get("init_from", stage.at)):
                self.folder.find_weights(stage.init_from).check_weights(self.model)
        return optimizers.state_meta()

    def _open_stage(self, index: int, data: StageData, resume: Checkpoint | None) -> StageRun:
        assert self.experiment is not None
        stage = self.experiment.stages[index]
        self.checkpoints.keep = stage.checkpoint.keep
        self._data_fingerprint = data.fingerprint
        freeze(self.model, stage)
        if resume is None:
            self.progress.enter_stage(index)
        run = StageRun.open(
            self.experiment,
            index,
            data,
            self.model,
            step=self.progress.stage_step,
            position=self.progress.position,
        )
        rows = run.objective.batch_rows(run.plan)
        self.micro_batch.choose(run.plan.width, -(-rows // self.world.size))
        if resume is None and stage.init_from:
            self.folder.find_weights(stage.init_from).load_weights(self.model)
        if resume is None:
            self._beginning = self._find_beginning(index)
        else:
            self._beginning = resume.state.get("beginning")
            self.folder.refuse_other_data(stage.name, resume.state["data"], data.fingerprint)
            self.micro_batch.rows = min(self.micro_batch.rows, resume.state["micro_batch"])
        self._make_learner(run, resume.state.get("compiled") if resume else None)
        if resume is not None and not run.done:
            resume.load_optimizers(self.learner.optimizers)
        if resume is None and stage.optimizer_state == "inherit":
            before = self.folder.find_weights(self.experiment.stages[index - 1].name)
            before.check()
            before.load_optimizers(self.learner.optimizers)
        if self.world.size > 1 and not run.done:
            trial = run.objective.trial_batch(run.rows, self._scene(run))
            self.learner.agree_on_micro_batch(trial)
        return run

    def _scene(self, run: StageRun) -> Scene:
        return Scene(
            stage=run.stage,
            plan=run.plan,
            position=run.position,
            model=self.model,
            world=self.world,
            precision=self.precision,
            micro_batch=self.micro_batch,
            seed=hash((self.seed, self.progress.stage_index)),
            reference=lambda: self._copy_of_beginning(run.stage),
        )

    def _find_beginning(self, index: int) -> dict[str, str] | None:
        """Where the weights lie that a stage with an objective begins with; None: they are new."""
        assert self.experiment is not None
        stage = self.experiment.stages[index]
        start = stage.init_from or (self.experiment.stages[index - 1].name if index else None)
        if stage.objective is None or start is None:
            return None
        return self.folder.note(self.folder.find_weights(start))

    def _copy_of_beginning(self, stage: Stage) -> LMBase:
        """The model with the weights that the stage began with; from the disk, so that a resumed
        run has the same ones."""
        if self._beginning is None:
            raise ConfigError(
                f"stage '{stage.name}' compares with the weights it begins with, and they are new",
                hint="train a stage before it, or give it init_from:",
            )
        reference = copy.deepcopy(self.model).requires_grad_(False)
        self.folder.noted(self._beginning).load_weights(reference)
        return reference.eval()

    def _is_best(self, run: StageRun) -> bool:
        """Whether what was measured just now is the best so far; the main rank looks."""
        if not self._measured or run.stage.checkpoint.best is None:
            return False
        self.saver.wait()  # what it writes may be the best so far
        best = self.world.is_main and self.checkpoints.is_best(run.stage.name, self._measured)
        return bool(self.world.max(best))

    def _leave_if_asked(self, run: StageRun) -> None:
        """Save and leave when a signal reached any rank: all ranks stop at the same step."""
        asked = int(self.world.max(self.stop.signal or 0))
        if asked:
            self.save_checkpoint(run)
            self.await_checkpoint()
            raise Stopped(
                f"stopped at step {self.progress.step}, saved in {self.folder.path}",
                hint="the same command goes on from there",
                exit_code=exit_code_of(asked),
            )

    def _state(self) -> dict[str, Any]:
        peak = asdict(self._peak) if self._peak else None
        about = {"data": self._data_fingerprint, "beginning": self._beginning, "peak": peak}
        return {**super()._state(), **about}
