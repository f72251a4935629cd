"""diagnosis: what is kept of a step that was not taken, and where its numbers went wrong.

A case is a checkpoint for inference, with the weights as they were before the step, and beside them

    batch.safetensors   one rank's rows: inputs, targets, weights, documents
    report.json         step, kind, rows, origin; what it takes to run the batch again

`lmkit replay` runs it again. With several ranks the rows are those of the first rank that finds a
number of its own that is not finite; the weights are put together from all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lmkit.checkpoints.durable import storage_errors
from lmkit.checkpoints.manifest import MANIFEST
from lmkit.errors import CheckpointError
from lmkit.model import LMBase
from lmkit.optim.parts import held
from lmkit.ranks.world import World
from lmkit.text import Batch
from lmkit.train.anomaly import Anomaly
from lmkit.train.learner import Learner
from lmkit.train.loading import save_for_inference

BATCH, REPORT = "batch.safetensors", "report.json"
TENSORS = ("inputs", "targets", "weights", "documents")
WITH_WEIGHTS = 3  # cases of a run: a long run that skips must not fill the disk


@dataclass(frozen=True)
class Case:
    """A step that was not taken, as it lies on the disk: `report` is its JSON."""

    folder: Path
    report: Mapping[str, Any]
    batch: Batch

    @property
    def step(self) -> int:
        """Its number in the run."""
        return self.report["step"]


def write_case(
    place: Path,
    learner: Learner,
    anomaly: Anomaly,
    experiment: Mapping[str, Any],
    about: Mapping[str, Any],
) -> Case:
    """Keep a step's batch, the weights before it, and where the first NaN or infinity stands.

    Every rank calls it. The gradients of the step are looked at, and gone afterwards.

    Args:
        place: the folder that is made of it.
        learner: as the step left it.
        experiment: what the model is built by.
        about: where in the run the step stands, for the report: `step`, and what else is known.
    """
    world = learner.world
    found = _find(learner, anomaly)
    finder = world.min(world.rank if found["origin"] else world.size) % world.size
    _make_room(place, learner, experiment)
    world.barrier()
    if world.rank == finder:
        kind = {"kind": anomaly.kind, "what": anomaly.what}
        _write(place, anomaly.batch, {**about, **kind, **found, **_conditions(learner, anomaly)})
    world.barrier()
    return read_case(place)


def read_case(folder: Path) -> Case:
    """The inverse of `write_case`.

    Raises:
        CheckpointError: the folder holds none, or not all of it.
    """
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        tensors = load_file(folder / BATCH)
        counted = {key: report[key] for key in ("count", "bytes", "row_bytes")}
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"holds no step that was not taken: {error}",
            hint="give a folder such as RUN/not_finite_step_12",
            at=folder,
        ) from error
    batch: Any = {name: tensors.get(name) for name in TENSORS} | counted
    return Case(folder, report, Batch(**batch))


def find_origin(model: LMBase, work: Callable[[], object]) -> str:
    """Where the first number that is not finite comes up while `work` runs the model forward and
    backward; empty if there is none.

    Looked at are the weights, what each module gives, deepest first, then the gradients on the way
    back. One module can still be at fault for the other's numbers: a gradient overflows where it
    is computed, a weight where it was stepped.
    """
    with _watched(model) as on_the_way:
        work()
    named = list(model.named_parameters())
    left = [name for name, p in named if p.grad is not None and not _finite(p.grad)]
    model.zero_grad()
    found = [f"the weights {name}" for name, p in named if not _finite(p)]
    found += [*on_the_way, *(f"the gradient of {name}" for name in left)]
    return found[0] if found else ""


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """The places where numbers are not finite, in the order of time, as they come up inside."""
    found: list[str] = []

    def note(place: str, tensor: Tensor) -> None:
        if tensor.is_floating_point() and not _finite(tensor):
            found.append(place)

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, Tensor):
                note(f"the output of {name}", tensor.detach())
                if tensor.requires_grad:
                    tensor.register_hook(partial(note, f"the gradient at the output of {name}"))

    handles = [
        module.register_forward_hook(partial(look, name or type(model).__name__))
        for name, module in model.named_modules()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _find(learner: Learner, anomaly: Anomaly) -> dict[str, Any]:
    """What is not finite: in the tensors of all ranks, and first of all in this rank's rows."""
    model, world = learner.model, learner.world
    parameters = dict(model.named_parameters())
    weights = _not_finite(parameters, world)
    gradients = _not_finite({name: p.grad for name, p in parameters.items()}, world)
    origin = find_origin(model, lambda: learner.run_again(anomaly.batch, anomaly.seed))
    return {
        "origin": origin,
        "parameters_not_finite": weights,
        "gradients_not_finite": gradients,
    }


def _conditions(learner: Learner, anomaly: Anomaly) -> dict[str, Any]:
    """What it takes to run this rank's rows again, and the rows as text."""
    batch, decode = anomaly.batch, learner.model.need_tokenizer().decode
    return {
        "rank": learner.world.rank,
        "seed": anomaly.seed,
        "micro_batch": learner.micro_batch.rows,
        "precision": learner.precision.name,
        "dropout": learner.dropout,
        "count": batch.count,
        "bytes": batch.bytes,
        "row_bytes": batch.row_bytes,
        "rows": [decode(row.tolist()) for row in batch.inputs],
    }


def _write(place: Path, batch: Batch, report: Mapping[str, Any]) -> None:
    named = {name: getattr(batch, name) for name in TENSORS}
    tensors = {name: tensor.contiguous() for name, tensor in named.items() if tensor is not None}
    with storage_errors(place):
        save_file(tensors, place / BATCH)
        (place / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _make_room(place: Path, learner: Learner, experiment: Mapping[str, Any]) -> None:
    """Make the folder; the first ones get the weights, put together from all ranks."""
    model, is_main = learner.model, learner.world.is_main
    whole = {path.parent for path in place.parent.glob(f"*_step_*/{MANIFEST}")}
    room = place in whole or (len(whole) < WITH_WEIGHTS and not place.exists())
    if learner.world.max(is_main and room):
        weights = learner.strategy.collect(model.state_dict(keep_vars=True))
        if is_main:
            save_for_inference(model, place, experiment, weights)
    if is_main:
        with storage_errors(place):
            place.mkdir(parents=True, exist_ok=True)


def _not_finite(named: Mapping[str, Tensor | None], world: World) -> list[str]:
    """The names of tensors that are not finite, of a part that lies on another rank too."""
    found = [t is not None and not _finite(t) for t in named.values()]
    return [name for name, off in zip(named, world.sum(found), strict=True) if off]


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(held(tensor.detach())).all())
