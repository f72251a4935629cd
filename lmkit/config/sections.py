"""sections: the parts of a YAML that lmkit itself reads, and what others call their keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lmkit.errors import did_you_mean

SECTIONS = {
    "experiment": "lmkit.config.experiment.Experiment",
    "stage": "lmkit.config.experiment.Stage",
    "evaluate": "lmkit.config.experiment.Evaluate",
    "checkpoint": "lmkit.config.experiment.Checkpointing",
    "runner": "lmkit.train.runner.BasicModelRunner",
}
SHOWN = 8  # keys in an error; `lmkit describe` shows all

_ELSEWHERE = {  # what a reader of other libraries looks for in a section, and where it is here
    "lr learning_rate weight_decay": (
        "it belongs to an optimizer: optimizers: [{class: torch.optim.AdamW, lr: 3e-4}]"
    ),
    "warmup warmup_steps lr_scheduler": (
        "it belongs to schedule: {class: lmkit.optim.schedule.WarmupCosine, warmup: 100}"
    ),
    "max_len seq_len block_size": "a row is as long as the model's context, max_len of model:",
    "grad_clip max_grad_norm": "a stage calls it clip",
    "eval_every eval_interval": "write evaluate: {every: ...}",
    "save_every save_interval": "write checkpoint: {every: ...}",
    "gradient_accumulation_steps": (
        "batch_size is the whole step's; runner: {max_batch_size: ...} divides it"
    ),
    "device precision compile strategy": "it belongs to runner:",
}


def described_as(target: Any) -> str:
    """What `lmkit describe` is to be given to show what `target` takes."""
    path = f"{target.__module__}.{getattr(target, '__qualname__', type(target).__qualname__)}"
    return next((name for name, section in SECTIONS.items() if section == path), path)


def instead(target: Any, key: str, known: Iterable[str]) -> str:
    """What to write for a `key` that is none of the `known` ones that `target` takes."""
    names, label = list(known), described_as(target)
    foreign = [hint for keys, hint in _ELSEWHERE.items() if key in keys.split()]
    if foreign and label in SECTIONS:
        return foreign[0]
    if near := did_you_mean(key, names):
        return near
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"it takes {shown or 'nothing'}; see lmkit describe {label}"
