"""runner_base: says when. Stages, steps, evaluations, checkpoints, stops, in the order they happen;
how each is done stands next door (Learner, StageRun, CheckpointDir, Metrics).
"""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from lmkit.config import Experiment
from lmkit.data import BatchStream
from lmkit.errors import ConfigError, LMKitError, NumericError, Stopped
from lmkit.evals.bits_per_byte import bits_per_byte
from lmkit.inference import Sampling
from lmkit.model import LMBase, TrainResult
from lmkit.model.results import Predictions
from lmkit.optim import OptimizerSet
from lmkit.text import Batch
from lmkit.train.allocator import keep_freed_memory
from lmkit.train.checkpoint import (
    Checkpoint,
    CheckpointContents,
    CheckpointDir,
    checkpoint_bytes,
)
from lmkit.train.diagnosis import write_diagnosis
from lmkit.train.guard import StopFlag
from lmkit.train.learner import Learner, Step, pays_to_compile
from lmkit.train.loading import find_first
from lmkit.train.memory import MicroBatch
from lmkit.train.metrics import Metrics
from lmkit.train.precision import Policy, Precision, choose
from lmkit.train.progress import Progress
from lmkit.train.run_folder import RunFolder
from lmkit.train.stage_run import StageData, StageRun, freeze, named_groups, prepare_stage_data
from lmkit.train.world import World


class LMRunnerBase(ABC):
    """Owns optimizers, gradient accumulation, stages, checkpoints and DDP of one model.

    Two ways in: `fit()` runs the stages of an experiment; `initialize`, `train`, `validate`,
    `generate` and `save` drive a model by hand, without any YAML.

    Args:
        max_batch_size: rows that go through the model at once (the micro-batch); `auto` starts with
            what usually fits and halves it when memory runs out. The gradient is the same.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, bf16, fp16 or fp32: what the model computes in. Weights stay fp32.
        compile: compile the model with torch.compile; `auto` does on CUDA where the run is long
            enough to pay it back, and not on the CPU.
        threads: CPU threads; None leaves torch's choice. Another number gives other rounding.
        deterministic: allow only algorithms that repeat to the bit; `compile` needs it for that.
        experiment: what `fit` runs; offered by `lmkit train`.
    """

    def __init__(
        self,
        *,
        max_batch_size: int | Literal["auto"] = "auto",
        device: str = "auto",
        precision: Policy = "auto",
        compile: bool | Literal["auto"] = "auto",
        threads: int | None = None,
        deterministic: bool = False,
        experiment: Experiment | None = None,
    ) -> None:
        self.max_batch_size = max_batch_size
        self.device = device
        self.precision_policy = precision
        self.compile = compile
        self.threads = threads
        self.deterministic = deterministic
        self.experiment = experiment
        self.seed = experiment.seed if experiment else 0
        self.progress = Progress()
        self._data_fingerprint = ""
        self.model: LMBase
        self.optimizers: OptimizerSet | None = None

    # --- driven by hand -----------------------------------------------------------------------

    def initialize(
        self,
        device: str | torch.device | None = None,
        locations: str | Path | Sequence[str | Path] | None = None,
        for_train: bool = True,
        load_optimizer: bool = True,
        **parameters: Any,
    ) -> None:
        """Make the model, and with `for_train` its optimizers.

        Args:
            device: None takes the runner's.
            locations: a checkpoint, or several: the first that exists is loaded.
            load_optimizer: take up the optimizers' state too, where the checkpoint has it.
            parameters: the model's arguments. A runner's `overrides` beat those of a checkpoint,
                which beat `parameters`.

        Raises:
            ModelError: the model's logits are of a wrong shape, or too few for its tokenizer.
            CheckpointError: the checkpoint is damaged or of another architecture.
        """
        torch.use_deterministic_algorithms(self.deterministic)
        keep_freed_memory()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        self.world = World.from_environment(self.device if device is None else device)
        checkpoint = find_first(locations)
        saved = checkpoint.model_arguments if checkpoint else {}
        self.model = self._construct_model(**{**parameters, **saved}).to(self.world.device)
        self.model.initialize(self.world.device)
        self._check_model()
        if checkpoint:
            checkpoint.load_weights(self.model)
        name = choose(self.precision_policy, self.world.device)
        self.precision = Precision(name, self.world.device)
        self.micro_batch = MicroBatch(self.max_batch_size, self.world.device)
        if for_train:
            self._make_learner(None)
        if checkpoint and self.optimizers and load_optimizer and checkpoint.has_optimizers:
            checkpoint.load_optimizers(self.optimizers)
            self.progress = Progress.from_state(checkpoint.state["progress"])

    def train(
        self,
        prompts: Sequence[Any],
        actual_samples_read: int | None = None,
        include_prompts: bool = True,
    ) -> TrainResult:
        """One optimizer step on `prompts` ({prompt, truth} mappings, strings or Prompts).

        Args:
            actual_samples_read: what to count as samples where a prompt stands for several.
            include_prompts: train on the prompts' tokens too, not on the truths' only.

        Returns:
            (predictions, summed loss, tokens). Predictions are made when read, by the model after
            this step.

        Raises:
            NumericError: the loss or a gradient is not finite; nothing was stepped.
        """
        started = time.perf_counter()
        batch = self.model.tokenize(prompts, include_prompts)
        self.micro_batch.choose(batch.width, len(batch))
        step = self._learn(batch, clip=None)
        samples = len(prompts) if actual_samples_read is None else actual_samples_read
        seconds = time.perf_counter() - started
        self.progress.count("train", samples, batch.inputs.numel(), step.loss.count, seconds)
        predictions = Predictions(len(batch), lambda: self.model.predict(batch))
        return TrainResult(predictions, step.loss.total, step.loss.count)

    def validate(
        self,
        prompts: Sequence[Any],
        actual_samples_read: int | None = None,
        include_prompts: bool = True,
    ) -> TrainResult:
        """The loss on `prompts`, without gradients; trains nothing.

        Args:
            actual_samples_read: what to count as validated where a prompt stands for several.
            include_prompts: measure the prompts' tokens too.
        """
        samples = len(prompts) if actual_samples_read is None else actual_samples_read
        self.progress.validated_samples += samples
        with torch.no_grad(), self.model.evaluating(), self.precision.autocast():
            return self.model.train_prompts(prompts, include_prompts)

    def generate(
        self, prompts: Sequence[str], max_len: int | None = None, **sampling: Any
    ) -> list[str]:
        """The text that follows each prompt; greedy unless `sampling` says otherwise."""
        return self.model.generate_prompts(prompts, max_len, **sampling)

    def save(self, location: str | Path, prod_save: bool = False) -> Path:
        """Write a checkpoint folder at `location`; `prod_save` leaves only what inference needs."""
        return self._contents("train", {}).write(Path(location), for_inference=prod_save)

    # --- an author's part ---------------------------------------------------------------------

    @abstractmethod
    def _construct_model(self, **parameters: Any) -> LMBase:
        """Make the model, on the CPU."""

    def construct_optimizer(self, model: LMBase, run: StageRun | None) -> OptimizerSet:
        """Make a stage's optimizers (None: for training by hand). Override to bring your own."""
        specs: Any = run.stage.optimizers if run else "auto"
        if specs == "auto":
            tokens, steps = (run.plan.batch_tokens, run.plan.steps) if run else (8192, 1000)
            specs = model.default_optimizers(tokens, steps)
        return OptimizerSet.build(named_groups(model), specs)

    # --- an experiment ------------------------------------------------------------------------

    def fit(self, allow_change: Sequence[str] = ()) -> int:
        """Run the experiment's stages, from the newest checkpoint on where there is one.

        Args:
            allow_change: keys (globs) that may differ from the experiment the run began with.

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
            self.stop = stack.enter_context(StopFlag())
            # before the ranks connect: no collective waits for a tokenizer
            data = [
                prepare_stage_data(self.experiment, stage, self.model)
                for stage in self.experiment.stages
            ]
            for index, each in enumerate(data):
                self._rehearse(index, each)
            if self.world.is_main:
                stack.enter_context(self.folder.lock())
            self.world.connect()
            stack.callback(self.world.disconnect)
            resume = self._begin()
            begun_at = self.progress.step
            folder = self.folder.path if self.world.is_main else None
            self.metrics = stack.enter_context(Metrics(folder, begun_at if resume else None))
            for index in range(self.progress.stage_index, len(data)):
                self.run_stage(index, data[index], resume)
                resume = None
            self.metrics.summary()
            return self.progress.step - begun_at

    def run_stage(self, index: int, data: StageData, resume: Checkpoint | None = None) -> None:
        """Train one stage to its end; from `resume`, a checkpoint within it, where given."""
        run = self._open_stage(index, data, resume)
        if run.done:
            return
        stream = run.start_stream(self.world)
        self.metrics.begin_stage(run.stage.name, run.plan.steps, run.step)
        try:
            while not run.done:
                self._leave_if_asked(run)
                self.train_step(stream, run)
                if run.evaluation_due:
                    found = self.evaluate(run)
                    if self.checkpoints.is_best(found):
                        self.save_checkpoint(run, found)
                if run.checkpoint_due:
                    self.save_checkpoint(run)
            self.save_checkpoint(run, self.evaluate(run))
        finally:
            stream.close()

    def train_step(self, stream: BatchStream, run: StageRun) -> Step:
        """Take a batch, set the rates, accumulate and step, record."""
        assert self.optimizers is not None
        started = time.perf_counter()
        batch = next(stream)
        self.optimizers.set_rates(run.rate)
        step = self._learn(batch, run.stage.clip)
        self._record(run, step, batch.width, time.perf_counter() - started, stream.waited)
        return step

    @torch.no_grad()
    def evaluate(self, run: StageRun) -> dict[str, float]:
        """Bits per byte on the held-out rows, and samples; logged and given back.

        The same rows every time and on any number of ranks; training's random numbers stay as
        they are.
        """
        wishes = run.stage.evaluate
        found: dict[str, float] = {}
        batches = run.validation_batches(self.world, self.micro_batch.rows)
        if wishes.bits_per_byte and batches is not None:
            with self.precision.autocast():
                found = asdict(bits_per_byte(self.model, batches, self.world.sum))
        samples: list[tuple[str, str]] = []
        if wishes.samples and self.world.is_main:
            # as `lmkit generate` does by default: the likeliest words alone soon go in circles
            sampling = Sampling(
                temperature=0.8, top_k=50, max_new_tokens=wishes.max_new_tokens, seed=self.seed
            )
            completions = self.model.generate(list(wishes.samples), sampling)
            samples = [(completion.prompt, completion.text) for completion in completions]
        self.metrics.evaluation(self.progress.step, run.stage.name, found, samples)
        return found

    def save_checkpoint(self, run: StageRun, metrics: Mapping[str, float] | None = None) -> None:
        """Write all that a resume needs; the main rank does."""
        if self.world.is_main:
            self.metrics.flush()
            self.checkpoints.save(self._contents(run.stage.name, metrics or {}))

    # --- the parts of a run -------------------------------------------------------------------

    def _learn(self, batch: Batch, clip: float | None) -> Step:
        # ints only: their hash is the same in every process
        seed = hash((self.seed, self.progress.stage_index, self.progress.stage_step))
        try:
            return self.learner.learn(batch, seed=seed, clip=clip)
        except NumericError as error:
            if self.experiment is not None:
                error.at = f"step {self.progress.step + 1}"
                place = write_diagnosis(self.folder.path, self.model, batch, self.progress.step + 1)
                error.hint += f"; {place} holds the batch and where it began"
            raise

    def _record(self, run: StageRun, step: Step, width: int, seconds: float, waited: float) -> None:
        rows = run.advance()
        self.progress.stage_step, self.progress.position = run.step, run.position
        self.progress.count(run.stage.name, rows, rows * width, step.loss.count, seconds)
        assert self.optimizers is not None
        self.metrics.step(
            self.progress.step,
            step.loss,
            tokens=rows * width,
            seconds=seconds,
            waited=waited,
            grad_norm=step.grad_norm,
            rates=self.optimizers.rates,
        )

    def _begin(self) -> Checkpoint | None:
        """Take the run up where its newest checkpoint stands, or begin it."""
        self.checkpoints = CheckpointDir(self.folder.checkpoints)
        if self.world.is_main:
            self.checkpoints.prepare(checkpoint_bytes(self.model))
        self.world.barrier()
        resume = self.folder.find_resume()
        if resume is not None:
            resume.load_weights(self.model)
            self.progress = Progress.from_state(resume.state["progress"])
            self.precision = Precision(resume.state["precision"]["name"], self.world.device)
            self.precision.load_state_dict(resume.state["precision"])
        if self.world.is_main:
            self.folder.write_experiment()
        return resume

    def _check_model(self) -> None:
        try:
            self.model.check()
        except LMKitError as error:
            if self.experiment is not None:
                error.at = error.at or self.experiment.model.at
            raise

    def _rehearse(self, index: int, data: StageData) -> None:
        """Open a stage for a look: its errors are due before anything is written, not at night."""
        assert self.experiment is not None
        stage = self.experiment.stages[index]
        freeze(self.model, stage.freeze)
        run = StageRun.open(self.experiment, index, data, self.model)
        self.construct_optimizer(self.model, run)
        if stage.init_from and stage.init_from not in [s.name for s in self.experiment.stages]:
            self.folder.find_weights(stage.init_from).check_weights(self.model)

    def _open_stage(self, index: int, data: StageData, resume: Checkpoint | None) -> StageRun:
        assert self.experiment is not None
        stage = self.experiment.stages[index]
        self.checkpoints.keep, self.checkpoints.best = stage.checkpoint.keep, stage.checkpoint.best
        self._data_fingerprint = data.fingerprint
        freeze(self.model, stage.freeze)
        run = StageRun.open(self.experiment, index, data, self.model)
        self.micro_batch.choose(run.plan.width, -(-run.plan.rows_per_batch // self.world.size))
        if resume is None:
            self.progress.enter_stage(index)
            if stage.init_from:
                self.folder.find_weights(stage.init_from).load_weights(self.model)
        else:
            self.folder.refuse_other_data(stage.name, resume.state["data"], data.fingerprint)
            run.step, run.position = self.progress.stage_step, self.progress.position
            self.micro_batch.rows = resume.state["micro_batch"]
        self._make_learner(run)
        if resume is not None and not run.done:
            resume.load_optimizers(self.learner.optimizers)
        if not run.done:
            self.learner.agree_on_micro_batch(run.first_batch(self.world))
        return run

    def _make_learner(self, run: StageRun | None) -> None:
        self.optimizers = self.construct_optimizer(self.model, run)
        work = run.plan.tokens * self.model.flops_per_token(run.plan.width) if run else 0.0
        self.learner = Learner(
            self.model,
            self.optimizers,
            self.world,
            self.precision,
            self.micro_batch,
            compile=pays_to_compile(self.compile, self.world.device, work),
        )

    def _leave_if_asked(self, run: StageRun) -> None:
        """Save and leave when a signal reached any rank: all ranks stop at the same step."""
        asked = int(self.world.max(self.stop.signal or 0))
        if asked:
            self.save_checkpoint(run)
            raise Stopped(
                f"stopped at step {self.progress.step}, saved in {self.folder.path}",
                hint="the same command goes on from there",
                exit_code=130 if asked == signal.SIGINT else 143,
            )

    def _contents(self, stage: str, metrics: Mapping[str, float]) -> CheckpointContents:
        state = {
            "progress": self.progress.state_dict(),
            "precision": self.precision.state_dict(),
            "micro_batch": self.micro_batch.rows,
            "world_size": self.world.size,
            "data": self._data_fingerprint,
            "random_numbers": "reseeded at every micro-batch from (seed, stage, step, rank, index)",
        }
        experiment = self.experiment.to_dict() if self.experiment else {}
        return CheckpointContents(
            model=self.model,
            optimizers=self.optimizers,
            state=state,
            experiment=experiment,
            stage=stage,
            step=self.progress.step,
            metrics=metrics,
        )
