"""runner_base: says when. Stages, steps, evaluations, checkpoints, stops, in the order they happen;
how each is done stands next door (Learner, StageRun, CheckpointDir, Metrics).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from typing import Any

import torch

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.checkpoints.contents import checkpoint_bytes, folder_name
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.saver import Saver
from lmkit.config.duration import to_seconds
from lmkit.errors import ConfigError
from lmkit.train.anomaly import Anomalies, Anomaly, OnAnomaly, Policy
from lmkit.train.beginning import copy_of_beginning, find_beginning
from lmkit.train.by_hand import ByHand
from lmkit.train.evaluation import measure, write_samples
from lmkit.train.facts import facts_of
from lmkit.train.guard import Guard, StopAsked, StopFlag
from lmkit.train.learner import Step
from lmkit.train.mending import pass_over
from lmkit.train.metrics import Metrics
from lmkit.train.objective import Scene, Stream
from lmkit.train.parameters import freeze
from lmkit.train.peak import Peak, find_peak, full_speed
from lmkit.train.precision import Precision
from lmkit.train.profile import Profile
from lmkit.train.progress import Progress
from lmkit.train.rehearsal import prepare, rehearse
from lmkit.train.run_folder import RunFolder
from lmkit.train.stage_data import StageData
from lmkit.train.stage_run import StageRun


class LMRunnerBase(ByHand):
    """Owns optimizers, gradient accumulation, stages, checkpoints and DDP of one model.

    Two ways in: `fit()` runs the stages of an experiment; `initialize`, `train`, `validate`,
    `generate` and `save` drive a model by hand, without any YAML. Both take the settings of ByHand.

    Args:
        time_limit: how long a start may run (90 seconds, 30m, 11.5h): it then saves and ends with
            exit code 142, in time.
        on_anomaly: what becomes of a step whose loss or gradient is not finite: stop, skip or
            rollback; more is said by OnAnomaly's keys.
        watchdog: after so long without a sign of life the run ends with exit code 5 and the stacks
            of all threads; null: it may hang.
        settings: as of ByHand.
    """

    _data_fingerprint = ""  # of the stage under way; a model driven by hand has none
    _measured: Mapping[str, float] = {}  # by the evaluation after the last step, if there was one
    _peak: Peak | None = None  # of this rank's device, where it is known
    _profile: Profile | None = None  # of the steps under way, where one is asked for
    _beginning: dict[str, str] | None = None  # of the stage under way: see RunFolder.note
    _owed: dict[str, Any] | None = None  # an evaluation, by the line of metrics that it belongs to
    _taken_up: str | None = None  # what came next when this start took the run up, if it did

    def __init__(
        self,
        *,
        time_limit: float | str | None = None,
        on_anomaly: Policy | OnAnomaly = "stop",
        watchdog: float | str | None = "30m",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.time_limit = None if time_limit is None else to_seconds(time_limit, "time_limit")
        self.patience = None if watchdog is None else to_seconds(watchdog, "watchdog")
        wishes = OnAnomaly(policy=on_anomaly) if isinstance(on_anomaly, str) else on_anomaly
        self.anomalies = Anomalies(wishes)

    def fit(self, allow_change: Sequence[str] = (), profile: int = 0) -> int:
        """Run the experiment's stages, from the newest checkpoint on where there is one.

        Args:
            allow_change: keys (globs) that may differ from the experiment the run began with.
            profile: steps to watch with torch's profiler, after the first three.

        Returns:
            the optimizer steps done now: 0 when the run was finished before.

        Raises:
            Stopped: a signal or the time limit asked to; everything is saved.
            Anomaly: a step could not be taken, and the policy is to stop.
            CheckpointError: the experiment changed, or no checkpoint is good.
        """
        if self.experiment is None:
            raise ConfigError("fit needs an experiment", hint="or use initialize() and train()")
        with ExitStack() as stack:
            stop = stack.enter_context(StopFlag(self.time_limit))
            torch.manual_seed(self.seed)
            self.initialize(for_train=False)
            self.folder = RunFolder(self.experiment, allow_change)
            # before the ranks connect: no collective waits for a tokenizer
            data = prepare(self.experiment, self.model, self.strategy_name, self.reduction)
            own = type(self).evaluate is not LMRunnerBase.evaluate
            make = self.construct_optimizer
            steps = rehearse(self.experiment, data, self.model, self.folder, make, own)
            stop.hold()  # until here there was nothing to save
            if self.world.is_main:
                stack.enter_context(self.folder.lock())
            stack.enter_context(self.world.connected(facts_of(self.experiment, data)))
            resume = self._begin()
            self._owed = resume.state.get("owed") if resume else None
            self._taken_up = self._comes_next if resume else None
            stack.enter_context(self.saver)
            begun_at = self.progress.step
            if self.world.is_main:
                self._peak = find_peak(self.world.device, self.precision.name)
                self.saver.reserve(checkpoint_bytes(self.model))
            folder = self.folder.path if self.world.is_main else None
            self.metrics = stack.enter_context(Metrics(folder, begun_at if resume else None))
            about = f"on {self.world} in {self.precision.name}"
            self.metrics.begin_run(steps, self.model.parameter_count(), about)
            guard = Guard(stop, self.patience, self.folder.path, self.world)
            self.guard = stack.enter_context(guard)
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
        run = self._reenter(index, data, resume) if resume else self._enter(index, data)
        if run.done and self._owed is None:
            return
        self.learner.detector = self.anomalies.detector
        if self.world.size > 1 and not run.done:
            self.learner.agree_on_micro_batch(run.objective.trial_batch(run.rows, self._scene(run)))
        if resume is None and self.anomalies.wishes.policy == "rollback":
            self._save_due(run)
        stream = run.objective.stream(run.rows, self._scene(run))
        speed = full_speed(self._peak, self.model.flops_per_token(run.plan.width), self.world.size)
        self.metrics.begin_stage(run.stage.name, run.plan.steps, run.step, speed)
        try:
            if self._owed is not None:
                self.metrics.reopen(self.progress.step, self._owed)
                self._after_step(run, stream)
            while not run.done:
                if stream.resumable:
                    self.guard.meet()
                self.train_step(stream, run)
                self.saver.check()
                self._after_step(run, stream)
            self.await_checkpoint()
            if self.learner.average is not None:
                self.learner.average.adopt()
        except StopAsked as asked:
            asked.check_headway(self._taken_up, self._comes_next)
            self.save_checkpoint(run)
            self.await_checkpoint()
            raise asked.stopped(self.progress.step, self.folder.path) from None
        finally:
            stream.close()

    def train_step(self, stream: Stream, run: StageRun) -> Step:
        """Take a batch, set the rates, accumulate and step, record."""
        assert self.optimizers is not None
        started = time.perf_counter()
        with self.guard.during("the batch's making", self.model, may_leave=stream.resumable):
            batch = next(stream)
        self.guard.beat(f"step {self.progress.step + 1}")
        self.optimizers.set_rates(run.rate)
        try:
            step = self._learn(batch, run.stage.clip)
            self.anomalies.good()
        except Anomaly as anomaly:
            step = self._pass_over(anomaly, run)
        if self.learner.average is not None:
            self.learner.average.update()
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
        rows = self.micro_batch.rows
        average = self.learner.average
        with average.applied() if average else nullcontext(), self.strategy.whole():
            found = measure(self.model, run, self.world, self.precision, rows, self.guard.meet)
            wishes = run.stage.evaluate
            samples = write_samples(self.model, wishes, self.seed) if self.world.is_main else []
        seconds = time.perf_counter() - started
        self.metrics.evaluation(self.progress.step, run.stage.name, found, samples, seconds)
        return found

    def save_checkpoint(self, run: StageRun) -> None:
        """Copy all that a resume needs, from all ranks, and write it while training goes on. The
        main rank does."""
        self.checkpoints.rules.needed = self.anomalies.needed
        contents = self._contents(run.stage.name, self._measured, run.checkpoint_stays)
        if self.world.is_main:
            self.metrics.flush()
            self.saver.save(contents)

    def await_checkpoint(self) -> None:
        """Until the last checkpoint is on the disk, for every rank to read."""
        self.saver.wait()
        self.world.barrier()

    # --- the parts of a run -------------------------------------------------------------------

    def _after_step(self, run: StageRun, stream: Stream) -> None:
        """Measure and save what is due. An evaluation that is left is owed: the run that goes on
        begins with it."""
        if run.evaluation_due:
            self._owed = self.metrics.open_line()
            with self.guard.during("the evaluation", self.model, may_leave=stream.resumable):
                self._measured = self.evaluate(run)
            self._owed = None
        if run.checkpoint_due or self._is_best(run):
            self._save_due(run)

    @property
    def _comes_next(self) -> str:
        step = self.progress.step
        return f"step {step + 1}" if self._owed is None else f"the evaluation after step {step}"

    def _save_due(self, run: StageRun) -> None:
        self.anomalies.saved(folder_name(self.progress.step, run.stage.name))
        self.save_checkpoint(run)

    def _pass_over(self, anomaly: Anomaly, run: StageRun) -> Step:
        if self.anomalies.needed:
            self.await_checkpoint()  # it may be on its way to the disk
        number = self.progress.step + 1
        step = pass_over(anomaly, self.anomalies, self.learner, run, self.folder, number)
        self.metrics.say(str(anomaly))
        return step

    def _record(self, run: StageRun, step: Step, stream: Stream, seconds: float) -> None:
        self._measured = {}
        self.guard.keep_room(seconds + self.saver.seconds)
        rows = run.advance()
        self.progress.stage_step, self.progress.position = run.step, run.position
        self.progress.count(run.stage.name, rows, stream.tokens, step.loss.count, seconds)
        assert self.optimizers is not None
        if run.step == 1:
            self.optimizers.state_meta()  # what no checkpoint can hold is told now, not at the end
        self.metrics.step(
            self.progress.step,
            step.loss,
            tokens=stream.tokens,
            seconds=seconds,
            waited=stream.waited,
            grad_norm=step.grad_norm,
            rates=self.optimizers.rates,
            **stream.measures,
            **step.notes,
        )

    def _begin(self) -> Checkpoint | None:
        """Take the run up where its newest checkpoint stands, or begin it."""
        assert self.experiment is not None
        best = {stage.name: stage.checkpoint.best for stage in self.experiment.stages}
        copies = self.folder.copies() if self.world.is_main else None
        self.checkpoints = CheckpointDir(self.folder.checkpoints, best=best, copies=copies)
        self.saver = Saver(self.checkpoints, self.world.device)
        if self.world.is_main:
            self.checkpoints.prepare(checkpoint_bytes(self.model))
        self.world.barrier()
        if self.precision_policy == "auto":
            self.precision = self.precision.agreed(self.world)
        resume = self.folder.find_resume(self.world, self.model)
        if resume is not None:
            resume.check_tokenizer(self.model, same_chat=True)
            resume.load_weights(self.model)
            self.progress = Progress.from_state(resume.state["progress"])
            if self.precision_policy == "auto":  # a probe may have said otherwise then
                self.precision = Precision(resume.state["precision"]["name"], self.world.device)
            self.precision.load_state_dict(resume.state["precision"])
            self.anomalies.load_state_dict(resume.state.get("anomalies"))
        if self.world.is_main:
            self.folder.write_experiment()
        return resume

    def _enter(self, index: int, data: StageData) -> StageRun:
        """Begin a stage."""
        assert self.experiment is not None
        self.progress.enter_stage(index)
        self.anomalies.begin_stage()
        run = self._open_stage(index, data)
        if run.stage.init_from:
            self.folder.find_weights(run.stage.init_from).load_weights(self.model)
        self._beginning = find_beginning(self.experiment, index, self.folder)
        self._make_learner(run)
        if run.stage.optimizer_state == "inherit":
            before = self.folder.find_weights(self.experiment.stages[index - 1].name)
            before.check()
            before.load_optimizers(self.learner.optimizers)
        return run

    def _reenter(self, index: int, data: StageData, resume: Checkpoint) -> StageRun:
        """Go on with a stage where a checkpoint left it."""
        run, state = self._open_stage(index, data), resume.state
        self._beginning = state.get("beginning")
        self.folder.refuse_other_data(run.stage, state["data"], data.fingerprint)
        self.micro_batch.rows = min(self.micro_batch.rows, state["micro_batch"])
        self._make_learner(run, state.get("compiled"))
        if not run.done or self._owed is not None:
            self.learner.go_on_from(resume)
        return run

    def _open_stage(self, index: int, data: StageData) -> StageRun:
        """Lay out the stage from where `progress` stands in it."""
        assert self.experiment is not None
        stage, at = self.experiment.stages[index], self.progress
        self.checkpoints.rules.keep = stage.checkpoint.keep
        self._data_fingerprint = data.fingerprint
        freeze(self.model, stage)
        run = StageRun.open(
            self.experiment, index, data, self.model, step=at.stage_step, position=at.position
        )
        rows = run.objective.batch_rows(run.plan)
        self.micro_batch.choose(run.plan.width, self.strategy.most_rows(rows))
        if not self.strategy.ordered and self.micro_batch.heed(self.folder.rows_note(stage.name)):
            self.metrics.say(f"rows at once: {self.micro_batch.rows}; with more the memory ran out")
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
            unit=self.micro_batch.rows if self.strategy.ordered else 1,
            look=self.guard.look,
            reference=lambda: copy_of_beginning(self.model, self._beginning, self.folder, run),
        )

    def _is_best(self, run: StageRun) -> bool:
        """Whether what was measured just now is the best so far; the main rank looks."""
        if not self._measured or run.stage.checkpoint.best is None:
            return False
        self.saver.wait()  # what it writes may be the best so far
        best = self.world.is_main and self.checkpoints.is_best(run.stage.name, self._measured)
        return bool(self.world.max(best))

    def _state(self) -> dict[str, Any]:
        peak = asdict(self._peak) if self._peak else None
        about = {"data": self._data_fingerprint, "beginning": self._beginning, "peak": peak}
        guards = {"anomalies": self.anomalies.state_dict(), "owed": self._owed}
        return {**super()._state(), **about, **guards}
