"""strangers: what a checkpoint of somebody unknown may have imported and called; builds nothing.

It holds no pickle. Of what it names, nothing of Python's own library is imported, and what is
called are parts of models, tokenizers and the user's own files, unchanged.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.checkpoints.manifest import read_json
from lmkit.checkpoints.plugin_code import Source, class_names, is_imported_as_kept, open_code
from lmkit.config.registry import load_module, resolve
from lmkit.errors import CheckpointError
from lmkit.text import Tokenizer

# in these packages the parts of models are here: torch has modules that run code they are given
HOMES = {
    "lmkit": ("lmkit.model.", "lmkit.nn.", "lmkit.text."),
    "torch": ("torch.nn.modules.",),
}


def import_parts(checkpoint: Checkpoint, *, trust_code: bool) -> list[Source]:
    """Import what a checkpoint's model and tokenizer are made of; gives the user's modules.

    Args:
        trust_code: run the copies of the user's modules in it, and let it name whatever it likes.

    Raises:
        CheckpointError: it names what is no model's part, or a module that it needs is gone.
        ConfigError: a class that it names is not installed.
    """
    sources = open_code(checkpoint.folder, trust_code=trust_code)
    imports, called = _imports(checkpoint), list(_called(checkpoint))
    if not trust_code:
        modules = [*imports, *(path for path in called if "." in path)]
        library = (name for name in modules if _is_pythons_own(name))
        _refuse(checkpoint, library, "of Python's own library and no model's part")
    for name in imports:
        load_module(name)
    if not trust_code:
        unknown = (path for path in called if not _is_known(resolve(path), sources))
        _refuse(checkpoint, unknown, "no model's part")
    return sources


def _imports(checkpoint: Checkpoint) -> list[str]:
    """The modules that register what the experiment names."""
    names = checkpoint.experiment.get("imports", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise CheckpointError("experiment.json names imports that are none", at=checkpoint.folder)
    return names


def _called(checkpoint: Checkpoint) -> Iterator[str]:
    """What loading would call: the model's parts, and the tokenizer."""
    yield from class_names(checkpoint.experiment["model"])
    if "tokenizer/tokenizer.json" in checkpoint.manifest.files:
        yield from class_names(read_json(checkpoint.folder, "tokenizer/tokenizer.json"))


def _refuse(checkpoint: Checkpoint, names: Iterator[str], why: str) -> None:
    """Refuse a folder for the first of these names, if there is one."""
    name = next(names, None)
    if name is not None:
        raise CheckpointError(
            f"it would call {name}, which is {why}",
            hint="if you trust whoever made it, --trust-code",
            at=checkpoint.folder,
        )


def _is_pythons_own(name: str) -> bool:
    """Whether to import it may do something already; no part of a model is there."""
    return name.partition(".")[0] in sys.stdlib_module_names


def _is_known(target: Any, sources: list[Source]) -> bool:
    """Whether it is of a kind that loading calls."""
    module = str(getattr(target, "__module__", ""))
    if inspect.isclass(target) and issubclass(target, nn.Module | Tokenizer):
        homes = HOMES.get(module.partition(".")[0])
        return homes is None or f"{module}.".startswith(homes)
    # the list of sources is a stranger's too: it may name subprocess, but not the user's own files
    return any(source.module == module and is_imported_as_kept(source) for source in sources)
