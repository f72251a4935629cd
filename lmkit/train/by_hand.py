"""by_hand: a model with all that training takes, driven a step at a time; knows no run and no stage
but the one whose optimizers it makes.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from lmkit.checkpoints.contents import CheckpointContents
from lmkit.config import Experiment
from lmkit.config.duration import to_seconds
from lmkit.errors import ConfigError, LMKitError, PluginError
from lmkit.model import LMBase, TrainResult
from lmkit.model.results import Predictions
from lmkit.optim import OptimizerSet
from lmkit.ranks.world import World
from lmkit.text import Batch
from lmkit.train.allocator import keep_freed_memory
from lmkit.train.average import WeightAverage
from lmkit.train.compiling import pays_to_compile
from lmkit.train.learner import Learner, Step
from lmkit.train.loading import find_first
from lmkit.train.memory import MicroBatch
from lmkit.train.parameters import named_groups
from lmkit.train.precision import Policy, Precision, choose
from lmkit.train.progress import Progress
from lmkit.train.recompute import recompute_blocks, recompute_compiled
from lmkit.train.stage_run import StageRun
from lmkit.train.strategies import Kind, Reduction, check_settings, make_strategy


class ByHand(ABC):
    """The part of a runner that needs no YAML: initialize, train, validate, generate, save.

    Args:
        max_batch_size: rows that go through the model at once (the micro-batch); `auto` starts with
            what usually fits and halves it when memory runs out. The gradient is the same.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, bf16, fp16, fp32 or fp8 (of wide models on Hopper GPUs and newer): what
            the model computes in. Weights stay fp32.
        compile: compile the model with torch.compile; `auto` does where the stage is long enough
            to pay it back and there is a compiler.
        threads: CPU threads; None leaves torch's choice. Another number gives other rounding.
        deterministic: allow only algorithms that repeat to the bit; on CUDA `compile` needs it for
            that, on the CPU it brings it along.
        activation_checkpointing: drop what each block computed and compute it again in backward:
            less memory, longer steps, the same gradients.
        strategy: what each of several ranks keeps: ddp, all of weights, gradients and optimizer
            states; sharded, its share of the states; fsdp, its part of everything. Any of them goes
            on from any one's checkpoints, on any number of ranks.
        reduction: ordered sums gradients in an order that does not know the number of ranks: any
            number of them trains the same weights, to the bit, in steps that take longer. It needs
            strategy ddp and a number as max_batch_size. fast sums them while they are computed.
        collective_timeout: how long a rank waits for the others in one place (90 seconds, 10m): for
            as long as the slowest of them may be late.
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
        activation_checkpointing: bool = False,
        strategy: Kind = "ddp",
        reduction: Reduction = "fast",
        collective_timeout: float | str = "10m",
        experiment: Experiment | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads must be at least 1, not {threads}", key="threads")
        check_settings(
            strategy,
            reduction,
            max_batch_size=max_batch_size,
            precision=precision,
            compile=compile,
        )
        self.max_batch_size = max_batch_size
        self.device = device
        self.precision_policy = precision
        self.compile = compile
        self.threads = threads
        self.deterministic = deterministic
        self.activation_checkpointing = activation_checkpointing
        self.strategy_name: Kind = strategy
        self.reduction: Reduction = reduction
        self.collective_timeout = to_seconds(collective_timeout, "collective_timeout")
        self.experiment = experiment
        self.seed = experiment.seed if experiment else 0
        self.progress = Progress()
        self.compiled = False
        self.model: LMBase
        self.optimizers: OptimizerSet | None = None

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
        keep_freed_memory()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        chosen = self.device if device is None else device
        self.world = World.from_environment(chosen, self.collective_timeout)
        checkpoint = find_first(locations)
        saved = checkpoint.model_arguments if checkpoint else {}
        if checkpoint and (tokenizer := checkpoint.tokenizer()):
            saved["tokenizer"] = tokenizer
        self.model = self._construct_model(**{**parameters, **saved}).to(self.world.device)
        self.model.initialize(self.world.device)
        self._check_model()
        if checkpoint:
            checkpoint.load_weights(self.model)
        name = choose(self.precision_policy, self.world.device)
        self.precision = Precision(name, self.world.device)
        self.micro_batch = MicroBatch(self.max_batch_size, self.world.device)
        self.strategy = make_strategy(self.strategy_name, self.reduction, self.world)
        if for_train:
            self._make_learner(None)
        if checkpoint and self.optimizers and load_optimizer and checkpoint.has_optimizers:
            self.learner.go_on_from(checkpoint)
            self.progress = Progress.from_state(checkpoint.state["progress"])
            self.precision.load_state_dict(checkpoint.state["precision"])

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
        self.progress.stage_step += 1  # another step draws other random numbers
        samples = len(batch) if actual_samples_read is None else actual_samples_read
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
        with torch.no_grad(), self.model.evaluating(), self.precision.autocast():
            result = self.model.train_prompts(prompts, include_prompts)
        rows = len(result.predictions)
        self.progress.validated_samples += (
            rows if actual_samples_read is None else actual_samples_read
        )
        return result

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int | None = None, **sampling: Any
    ) -> list[str]:
        """The text that follows each prompt; greedy unless `sampling` says otherwise."""
        return self.model.generate_prompts(prompts, max_new_tokens, **sampling)

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

    # --- how ----------------------------------------------------------------------------------

    def _learn(self, batch: Batch, clip: float | None) -> Step:
        try:
            return self.learner.learn(batch, seed=self._step_seed, clip=clip)
        except PluginError as error:
            error.at = error.at or f"step {self.progress.step + 1}"
            raise

    @property
    def _step_seed(self) -> int:
        # ints only: their hash is the same in every process
        return hash((self.seed, self.progress.stage_index, self.progress.stage_step))

    def _make_learner(self, run: StageRun | None, compiled: bool | None = None) -> None:
        """Make a stage's optimizers, what steps them, and the average where it wants one.

        Args:
            compiled: whether it was before; `compile: auto` goes on as it began.
        """
        self.strategy.cut(self.model, self.precision)
        self.optimizers = self.construct_optimizer(self.model, run)
        self.strategy.share(self.optimizers)
        self.compiled = self._compiles(run, compiled)
        self._set_switches()
        self.learner = Learner(
            self.model,
            self.optimizers,
            self.world,
            self.precision,
            self.micro_batch,
            compile=self.compiled,
            dropout=run.objective.dropout if run else True,
            strategy=self.strategy,
        )
        if run is not None and run.stage.ema is not None:
            self.learner.average = WeightAverage(self.model, run.stage.ema, run.step)

    def _compiles(self, run: StageRun | None, before: bool | None) -> bool:
        if self.strategy.lockstep:
            return False  # it puts weights together between two blocks: refused if asked for
        policy = before if before is not None and self.compile == "auto" else self.compile
        work = run.plan.tokens * self.model.flops_per_token(run.plan.width) if run else 0.0
        return pays_to_compile(policy, self.world.device, work)

    def _set_switches(self) -> None:
        """Those of torch that hold for the whole process, as the stage needs them."""
        if self.compiled and self.activation_checkpointing:
            recompute_compiled()
        # compiled, the gradient of an embedding is summed in another order each time
        repeat = self.deterministic or (self.compiled and self.world.device.type == "cpu")
        if repeat or torch.are_deterministic_algorithms_enabled():  # the call imports torch._dynamo
            torch.use_deterministic_algorithms(repeat, warn_only=not self.deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def _check_model(self) -> None:
        try:
            self.model.check()
            self.model.check_causal()
            if self.activation_checkpointing:
                recompute_blocks(self.model)
        except LMKitError as error:
            if self.experiment is not None:
                error.at = error.at or self.experiment.model.at
            raise

    def _state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside weights and optimizers, as JSON can hold it."""
        return {
            "progress": self.progress.state_dict(),
            "precision": self.precision.state_dict(),
            "micro_batch": self.micro_batch.rows,
            "compiled": self.compiled,
            "world_size": self.world.size,
            "random_numbers": "reseeded at every micro-batch from (seed, stage, step, "
            + ("number)" if self.strategy.ordered else "rank, index)"),
        }

    def _contents(
        self, stage: str, metrics: Mapping[str, float], stays: bool = False
    ) -> CheckpointContents:
        experiment = self.experiment.to_dict() if self.experiment else {}
        trained = self.model.state_dict(keep_vars=True)
        average = self.learner.average if self.optimizers else None
        weights = average.in_place_of(trained) if average else trained
        return CheckpointContents(
            model=self.model,
            optimizers=self.strategy.collect_optimizers(self.optimizers),
            weights=self.strategy.collect(weights),
            trained=self.strategy.collect(trained) if average else None,
            state=self._state(),
            experiment=experiment,
            stage=stage,
            step=self.progress.step,
            metrics=metrics,
            stays=stays,
        )
