"""experiment: what a run is, checked and frozen; opens no class and imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lmkit.config.coerce import coerce
from lmkit.config.loader import apply_overrides, read_yaml
from lmkit.config.names import add_search_folder, load_module
from lmkit.config.secrets import redact
from lmkit.config.spec import NOWHERE, Place, Spec, thaw
from lmkit.errors import ConfigError

OptimizerSpec = Spec  # `params` in it says which parameters; the rest goes to the constructor

_RUN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_STAGE_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][\w-]*", re.ASCII)


def _exactly_one(owner: Any, *keys: str) -> None:
    given = [key for key in keys if getattr(owner, key) is not None]
    if len(given) != 1:
        said = f"{' and '.join(given)} exclude each other" if given else "it has no length"
        raise ConfigError(
            f"stage {owner.name!r}: {said}",
            hint=f"write one of {', '.join(keys)}",
            key=given[-1] if given else "",
        )


def _at_least(owner: Any, **limits: int) -> None:
    for key, least in limits.items():
        value = getattr(owner, key)
        if isinstance(value, int) and value < least:
            raise ConfigError(f"{key} must be at least {least}, not {value}", key=key)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is measured on held-out text, and how often.

    Args:
        every: steps between evaluations; 0 is once, at the stage's end.
        bits_per_byte: measure the loss on held-out text.
        tokens: how many held-out tokens to measure it on.
        samples: beginnings that the model continues at each evaluation, to be read.
        questions: what a user asks it at each evaluation, in the form of its chats, to be read.
        max_new_tokens: how far it continues them.
        tasks: tasks that the model is asked at each evaluation,
        problems: and how many held-out problems of each.
    """

    every: int = 0
    bits_per_byte: bool = True
    tokens: int = 65_536
    samples: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    max_new_tokens: int = 64
    tasks: tuple[Spec, ...] = ()
    problems: int = 200

    def __post_init__(self) -> None:
        _at_least(self, every=0, tokens=1, max_new_tokens=1, problems=1)


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """When the run is saved, and which checkpoints stay.

    Args:
        every: steps between checkpoints; 0 is at the stage's end and when stopped.
        keep: how many of the latest stay, 2 at least: one may turn out to be damaged.
        best: a metric whose best checkpoint stays: bits_per_byte or loss, where lower is better, or
            a task, where higher is; `min:NAME` and `max:NAME` say which.
        keep_every: steps between checkpoints that stay for good; 0: none does.
    """

    every: int = 0
    keep: int = 2
    best: str | None = None
    keep_every: int = 0

    def __post_init__(self) -> None:
        _at_least(self, every=0, keep=2, keep_every=0)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a run.

    Args:
        name: goes into the names of its checkpoints.
        data: the source of its text or prompts; of reinforcement learning a task.
        objective: what is learned from the data; the next token if none is given.
        validation: a source of held-out text; otherwise `data` holds some out.
        steps: its length in optimizer steps; exactly one of steps, tokens and epochs.
        tokens: its length in trained tokens, or auto: from the model's size.
        epochs: its length in passes over the data; fractions count.
        batch_tokens: tokens of a global batch, or auto: from the length of the training.
        batch_size: rows of a global batch, 8 if neither is given.
        include_prompts: train on the prompt as well as on the truth.
        isolate_documents: no attention from one document of a row to another; prompts never have.
        optimizers: a list of {class, params, lr, ...}, or auto: what the model proposes.
        optimizer_state: fresh, or inherit: go on with the momenta of the stage before.
        schedule: progress in 0..1 -> multiplier of the learning rates.
        lr_scale: one more multiplier of all of them, such as 0.2 for fine-tuning; if none is given,
            that which the objective proposes for `auto`.
        clip: the largest norm of a gradient.
        ema: share of the past that an average of the weights keeps at each step, such as 0.999;
            evaluations, checkpoints and the next stage get the average. Without it there is none.
        freeze: names, with `*`, or groups of parameters that stay as they are.
        init_from: an earlier stage, or a checkpoint's or run's folder, whose weights to start from.
        evaluate: what is measured, and how often.
        checkpoint: when it is saved.
        at: where it was written,
        places: and where each of its keys was.

    Raises:
        ConfigError: a value is out of its range, or two of them exclude each other.
    """

    name: str
    data: Spec
    objective: Spec | None = None
    validation: Spec | None = None
    steps: int | None = None
    tokens: int | Literal["auto"] | None = None
    epochs: float | None = None
    batch_tokens: int | Literal["auto"] | None = None
    batch_size: int | None = None
    include_prompts: bool = True
    isolate_documents: bool = False
    optimizers: Literal["auto"] | tuple[OptimizerSpec, ...] = "auto"
    optimizer_state: Literal["fresh", "inherit"] = "fresh"
    schedule: Spec = Spec("lmkit.optim.schedule.WarmupCosine")
    lr_scale: float | None = None
    clip: float | None = None
    ema: float | None = None
    freeze: tuple[str, ...] = ()
    init_from: str | None = None
    evaluate: Evaluate = Evaluate()
    checkpoint: Checkpointing = Checkpointing()
    at: Place = field(default=NOWHERE, compare=False, repr=False)
    places: Mapping[str, Place] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not _STAGE_NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} cannot name a stage",
                hint="use letters, digits, - and _, one letter at least",
                key="name",
            )
        if self.batch_tokens is None and self.batch_size is None:
            object.__setattr__(self, "batch_size", 8)
        _exactly_one(self, "steps", "tokens", "epochs")
        _exactly_one(self, "batch_tokens", "batch_size")
        _at_least(self, steps=1, tokens=1, batch_tokens=1, batch_size=1)
        for key in ("epochs", "clip", "lr_scale"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ConfigError(f"{key} must be above 0, not {value}", key=key)
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"ema must lie between 0 and 1, not at {self.ema}", key="ema")
        if self.optimizers == ():
            hint = "write optimizers: auto"
            raise ConfigError("there are no optimizers", hint=hint, key="optimizers")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A YAML file, checked and frozen.

    Args:
        name: the run's name; its folder is `runs/<name>` unless `out` says otherwise.
        tokenizer: text <-> ids.
        model: what is trained.
        stages: what happens to it, one after the other; see `lmkit describe stage`.
        runner: who does it.
        seed: of everything random.
        out: the run's folder.
        copy_to: where its checkpoints are copied as well, under the name of the run's folder: a
            folder on another disk, or a URL that fsspec opens. A run whose own folder has no good
            checkpoint goes on from there.
        imports: modules to import first, for what they register.
        folder: where the YAML lies, absolute; relative paths in it begin there.
        file: the YAML, as it was named.

    Raises:
        ConfigError: a value is out of its range, or two stages have one name.
    """

    name: str
    tokenizer: Spec
    model: Spec
    stages: tuple[Stage, ...]
    runner: Spec = Spec("lmkit.train.runner.BasicModelRunner")
    seed: int = 1337
    out: str = ""
    copy_to: str = ""
    imports: tuple[str, ...] = ()
    folder: str = field(default="", compare=False)
    file: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not _RUN_NAME.fullmatch(self.name):
            hint = "it names a folder: use letters, digits, -, _ and ."
            raise ConfigError(f"{self.name!r} cannot name a run", hint=hint, key="name")
        if not self.out:
            object.__setattr__(self, "out", f"runs/{self.name}")
        _at_least(self, seed=0)
        if not self.stages:
            raise ConfigError("there are no stages", hint="write one at least", key="stages")
        names = [stage.name for stage in self.stages]
        for i, stage in enumerate(self.stages):
            if stage.name in names[:i]:
                raise ConfigError(f"two stages are called {stage.name!r}", key="stages")
            if i == 0 and stage.optimizer_state == "inherit":
                raise ConfigError(
                    f"stage {stage.name!r} is the first: there is no optimizer state to inherit",
                    hint="write optimizer_state: fresh",
                    key="stages",
                )
            if stage.init_from in names[i:]:
                raise ConfigError(
                    f"stage {stage.name!r} starts from {stage.init_from!r}, which is not before it",
                    key="stages",
                )

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, defaults too, as JSON can hold it; not the file's place, and
        no secret: it is written beside the weights, and travels with them."""
        return redact(_plain(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], folder: str | Path = "") -> Experiment:
        """Read ``to_dict`` back.

        Raises:
            ConfigError: a key is unknown, missing or ill-typed.
        """
        return replace(coerce(values, cls, name="experiment"), folder=str(folder))


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read a YAML file and check its structure: keys, types, names and what excludes what.

    The classes it names are opened later, by ``check`` and ``build``; from now on they are also
    looked for beside the file and in the current folder.

    Args:
        path: the YAML file.
        overrides: ``stages.pretrain.steps=50``, ``model.depth=2``: set over the file's values.

    Raises:
        ConfigError: names file and line, or the override.
        PluginError: a module of ``imports`` fails.
    """
    table = read_yaml(path)
    apply_overrides(table, overrides)
    experiment: Experiment = coerce(table, Experiment, Place(str(path)), "experiment")
    folder = os.path.realpath(os.path.dirname(path) or ".")
    for place in (os.getcwd(), folder):
        add_search_folder(place)
    for module in experiment.imports:
        load_module(module, table.places["imports"])
    return replace(experiment, folder=folder, file=str(path))


def flat(experiment: Experiment) -> dict[str, Any]:
    """Every key, dotted as in ``stages.pretrain.steps``, with its value."""
    return _flat(experiment.to_dict())


def differences(a: Experiment, b: Experiment) -> list[str]:
    """The dotted keys in which two experiments differ, sorted."""
    left, right = flat(a), flat(b)
    missing = object()
    keys = left.keys() | right.keys()
    return sorted(key for key in keys if left.get(key, missing) != right.get(key, missing))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, Spec):
        kept = (each.name for each in fields(value) if each.compare)
        return {name: _plain(getattr(value, name)) for name in kept}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return thaw(value, Spec.to_dict)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """``{dotted key: scalar}``; an item of a list goes by its name, if it has one."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {str(item.get("name", i)): item for i, item in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{path}.{key}" if path else key)
    return found
