"""preview: what an experiment will do, in numbers; trains nothing and writes nothing."""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lmkit.config import Experiment
from lmkit.errors import ModelError, NumericError, PluginError
from lmkit.lab.estimate import EFFICIENCY
from lmkit.lab.stage_preview import StageLook, StagePreview
from lmkit.lab.stand_in import with_tokenizer
from lmkit.model import LMBase
from lmkit.ranks.world import World, pick_device
from lmkit.text import Batch
from lmkit.train.accumulate import LossModule, accumulate
from lmkit.train.peak import measured
from lmkit.train.precision import FP8_NEEDS, Precision, choose, has_fp8
from lmkit.train.recompute import recompute_blocks
from lmkit.train.runner import LMRunnerBase, build_runner


@dataclass(frozen=True)
class MicroStep:
    """A forward and backward pass that was really made; `loss` is in nats a token."""

    rows: int
    tokens: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Preview:
    """An experiment in numbers.

    Attributes:
        out: the run's folder.
        device, precision: what it would be trained on, and in.
        untold: what cannot be told on this device, in words; empty where all can.
        parts: parameters by role.
        learned_from: the text that the vocabulary waits for; None where it is there. Until then
            another one of its size stands in for it.
        flops_per_token: of a forward and backward pass, by the model; 0 if it does not know.
        product_rate: FLOP/s of a matrix product, measured now; of which training is assumed to
            reach a share where there is no `micro_step`.
    """

    name: str
    out: str
    device: str
    precision: str
    untold: str
    model: str
    max_len: int
    vocabulary: int
    learned_from: str | None
    parts: dict[str, int]
    parameters: int
    flops_per_token: int
    product_rate: float
    micro_step: MicroStep | None
    stages: tuple[StagePreview, ...]

    def seconds(self, stage: StagePreview) -> float | None:
        """How long a stage trains, if that is known; its evaluations come on top."""
        if stage.tokens is None:
            return None
        if self.micro_step is not None:
            return stage.tokens * self.micro_step.seconds / self.micro_step.tokens
        flops = stage.tokens * self.flops_per_token
        return flops / (EFFICIENCY * self.product_rate) or None


def preview(experiment: Experiment, *, run: bool = False) -> Preview:
    """Build all that the experiment names, the model without its numbers, and work it out.

    Args:
        run: build the model in earnest too, and do a micro-step.

    Raises:
        LMKitError: what `lmkit train` would raise before its first step.
        NumericError: the loss of the micro-step is not finite.
        ConfigError: a micro-step in fp8 on a device that has none.
    """
    learned = with_tokenizer(experiment)
    experiment = learned.experiment
    runner = build_runner(experiment)
    device = pick_device(runner.device)
    untold = "" if run else _stand_in_for_fp8(runner, device)
    precision = Precision(choose(runner.precision_policy, device), device)
    product_rate = measured(device, precision.dtype)
    model, mode = make_model(experiment, runner, device)
    with tempfile.TemporaryDirectory(prefix="lmkit-check-") as cache:
        is_learned = learned.waits_for is None
        look = StageLook(
            experiment, runner, model, mode, precision, Path(cache), is_learned=is_learned
        )
        looks = [look.at(index) for index in range(len(experiment.stages))]
        micro_step = _do_micro_step(experiment, looks[0][1]) if run else None
    if untold:
        Precision("fp8", device).prepare(model)
    return Preview(
        name=experiment.name,
        out=experiment.out,
        device=str(device),
        precision=precision.name,
        untold=untold,
        model=experiment.model.path,
        max_len=model.max_len,
        vocabulary=model.need_tokenizer().vocab_size,
        learned_from=learned.waits_for,
        parts={role: sum(p.numel() for p in some) for role, some in model.param_groups().items()},
        parameters=model.parameter_count(),
        flops_per_token=model.flops_per_token(model.max_len),
        product_rate=product_rate,
        micro_step=micro_step,
        stages=tuple(stage for stage, _ in looks),
    )


def _stand_in_for_fp8(runner: LMRunnerBase, device: torch.device) -> str:
    """Where the device has no fp8, have bf16 looked at in its place; gives what is left untold."""
    if runner.precision_policy != "fp8" or has_fp8(device):
        return ""
    runner.precision_policy = "bf16"
    return f"in place of fp8, whose memory and time only {FP8_NEEDS} can tell"


class _Numberless(FakeTensorMode):
    """A mode that stays the same for a layer that is copied deeply, as nn.TransformerEncoder does:
    two modes cannot compute with each other."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Numberless:
        return self


def make_model(
    experiment: Experiment, runner: LMRunnerBase, device: torch.device
) -> tuple[LMBase, AbstractContextManager[Any]]:
    """Have the runner make its model of tensors without numbers, which cost no memory.

    A model whose constructor or forward needs numbers is made in earnest.

    Returns:
        the model, and the mode to use it in.
    """
    mode = _Numberless()
    try:
        with warnings.catch_warnings(), mode, device:
            # torch's, where a layer is copied deeply
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
            model = runner._construct_model()
            model.initialize(device)
            model.check()
            if runner.activation_checkpointing:
                recompute_blocks(model)
        return model, mode
    except ModelError as error:
        error.at = error.at or experiment.model.at
        raise
    except (PluginError, RuntimeError):  # if it is a fault of the model's own, it comes again
        runner.initialize(for_train=False)
        runner.model.check()
        return runner.model, nullcontext()


def _do_micro_step(experiment: Experiment, batch: Batch) -> MicroStep:
    """Forward and backward twice, with fewer rows if memory runs out; the faster one counts."""
    runner = build_runner(experiment)
    torch.manual_seed(experiment.seed)
    runner.initialize(for_train=False)
    runner.model.check()
    runner.micro_batch.choose(batch.width, len(batch))
    device = runner.world.device
    module = LossModule(runner.model.train())

    def work() -> MicroStep:
        rows = runner.micro_batch.rows
        started = time.perf_counter()
        loss = accumulate(
            module,
            batch.rows(0, rows),
            micro_batch=rows,
            world=World(0, 1, device),
            precision=runner.precision,
            seed=experiment.seed,
        )
        nats = loss.total.item() / max(loss.count, 1)  # waits for the device
        seconds = time.perf_counter() - started
        runner.model.zero_grad()
        return MicroStep(rows, rows * batch.width, nats, seconds)

    done = [runner.micro_batch.fit(work, runner.model.zero_grad) for _ in range(2)]
    if not math.isfinite(done[-1].loss):
        raise NumericError("the first micro-step's loss is not finite", hint="look at the model")
    return min(done, key=lambda step: step.seconds / step.tokens)
