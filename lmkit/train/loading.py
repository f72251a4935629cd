"""loading: from a folder to a model that generates; asks for nothing but the folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import tiktoken
import torch
from torch import Tensor

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.checkpoints.contents import CheckpointContents
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.manifest import MANIFEST
from lmkit.checkpoints.plugin_code import warn_of_changes
from lmkit.checkpoints.undrawn import make_undrawn
from lmkit.config.registry import Spec, build
from lmkit.errors import CheckpointError, ConfigError, ModelError, TokenizerError, did_you_mean
from lmkit.model import LMBase
from lmkit.nn.packed import Weights, pack_for_inference
from lmkit.text import Tokenizer
from lmkit.train.precision import DTYPES, choose
from lmkit.train.strangers import import_parts

logger = logging.getLogger(__name__)

RUN_CHECKPOINTS = "checkpoints"  # in a run's folder
Precision = Literal["auto", "bf16", "fp32", "int8"]


def load_model(
    path: str | Path | Checkpoint,
    device: str | torch.device = "cpu",
    trust_code: bool = False,
    *,
    precision: Precision | None = None,
) -> LMBase:
    """Rebuild a model, in evaluation mode, with its tokenizer and in the dtypes it was saved in.

    On the CPU its weights are the checkpoint's own pages, mapped into memory.

    Args:
        path: a run's folder (its newest good checkpoint is taken), or one checkpoint's. What
            `find_checkpoint` gave is not read once more to be made sure of.
        trust_code: run the copies of the user's modules in the checkpoint.
        precision: make it a model for inference only, with its linear layers laid out for that
            (`lmkit.nn.packed`): bf16, as training in bf16 computes; fp32; int8, weights of 8 bits;
            auto, bf16 where the device is faster in it and else fp32. None: as it was saved, to be
            trained, changed and saved again.

    Raises:
        CheckpointError: no checkpoint is there, it is damaged or of another architecture, or a
            module that it needs is gone.
        ConfigError: a class that it names is not installed, or there is no such precision.
    """
    computing = None if precision is None else computes_in(precision, torch.device(device))
    checkpoint = path if isinstance(path, Checkpoint) else find_checkpoint(path, for_inference=True)
    sources = import_parts(checkpoint, trust_code=trust_code)
    tokenizer = checkpoint.tokenizer()
    model = make_undrawn(lambda: build_model(checkpoint.experiment["model"], tokenizer)).to(device)
    warn_of_changes(sources)
    model.initialize(torch.device(device))
    checkpoint.load_weights(model, adopt_dtypes=True, mapped=True)
    if computing is not None:
        weights: Weights = "int8" if precision == "int8" else computing
        pack_for_inference(model, weights, DTYPES[computing])
    return model.eval()


def computes_in(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """What the arithmetic of a model is done in that `load_model` gives with this precision.

    Raises:
        ConfigError: there is no such precision.
    """
    known = get_args(Precision)
    if precision not in known:
        hint = did_you_mean(precision, known) or f"there are {', '.join(known)}"
        raise ConfigError(f"there is no precision {precision!r} to load a model in", hint=hint)
    chosen = choose("auto" if precision == "int8" else precision, device)
    return "bf16" if chosen == "bf16" else "fp32"


def find_checkpoint(path: str | Path, *, for_inference: bool = False) -> Checkpoint:
    """The checkpoint that a path means, made sure to be good.

    Args:
        path: one checkpoint, a run's folder or its checkpoints/; of several the newest good one.
        for_inference: look at the optimizers' state by its size only.

    Raises:
        CheckpointError: there is none, or none that is good.
    """
    folder = Path(path).expanduser()
    try:
        is_one = (folder / MANIFEST).exists()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", at=folder) from error
    if is_one:
        checkpoint = Checkpoint(folder)
        checkpoint.check(for_inference=for_inference)
        return checkpoint
    for place in (folder / RUN_CHECKPOINTS, folder):
        if newest := CheckpointDir(place).latest(for_inference=for_inference):
            return newest
    what = "no checkpoint is here" if folder.is_dir() else "there is no such folder"
    raise CheckpointError(what, hint="give a run's folder or one in its checkpoints/", at=folder)


def find_first(locations: str | Path | Sequence[str | Path] | None) -> Checkpoint | None:
    """The checkpoint of the first place that exists; None, with a warning, if none does."""
    places = [locations] if isinstance(locations, str | Path) else locations or []
    for place in places:
        if Path(place).expanduser().exists():
            return find_checkpoint(place)
    if places:
        logger.warning("no checkpoint at %s: the weights are new", ", ".join(map(str, places)))
    return None


def build_model(spec: Spec | Mapping[str, Any], tokenizer: Tokenizer | None) -> LMBase:
    """Make the model that `{class: module.Class, ...}` names.

    The constructor gets the tokenizer if it declares one; the model has it in any case, in place of
    one that it brings itself.

    Raises:
        ConfigError: as `build`.
        ModelError: the class is no LMBase.
    """
    if not isinstance(tokenizer, Tokenizer | tiktoken.Encoding | None):
        raise TokenizerError(
            f"a {type(tokenizer).__name__} is no tokenizer",
            hint="derive it from lmkit.text.Tokenizer",
        )
    model = build(spec, tokenizer=tokenizer)
    if not isinstance(model, LMBase):
        raise ModelError(
            f"{Spec.of(spec).path} is no language model", hint="derive it from lmkit.model.LMBase"
        )
    if not hasattr(model, "accepts_cache"):
        raise ModelError(
            f"{Spec.of(spec).path} is half made", hint="call super().__init__() in its __init__"
        )
    if tokenizer is not None:
        model.tokenizer = tokenizer
    return model


def save_for_inference(
    model: LMBase,
    location: str | Path,
    experiment: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a folder that `load_model` opens: the weights and what inference needs, no more.

    Args:
        weights: by name, where the model itself does not have them whole.
    """
    contents = CheckpointContents(model, experiment=experiment, weights=weights)
    return contents.write(location, for_inference=True)
