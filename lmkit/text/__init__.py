"""text: what text becomes before a model sees it: ids, samples, rows, batches.

The names are opened on first use: a tokenizer needs no torch, which takes 1.5 s to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmkit.text.batch import Batch
    from lmkit.text.packing import Piece, pack
    from lmkit.text.samples import Sample, encode_prompt, trim
    from lmkit.text.template import ChatTemplate
    from lmkit.text.tokenizer import Byte, Tiktoken, Tokenizer, load_tokenizer

__all__ = [
    "Batch",
    "Byte",
    "ChatTemplate",
    "Piece",
    "Sample",
    "Tiktoken",
    "Tokenizer",
    "encode_prompt",
    "load_tokenizer",
    "pack",
    "trim",
]

_HOMES = {
    "batch": ["Batch"],
    "packing": ["Piece", "pack"],
    "samples": ["Sample", "encode_prompt", "trim"],
    "template": ["ChatTemplate"],
    "tokenizer": ["Byte", "Tiktoken", "Tokenizer", "load_tokenizer"],
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
