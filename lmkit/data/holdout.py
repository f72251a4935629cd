"""holdout: which documents are kept back for validation; a function of each document alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Literal

from lmkit.errors import ConfigError
from lmkit.prompts import Prompt

Split = Literal["train", "validation", "all"]
_STEPS = 10_000  # the held-out share is taken in steps of 1/10,000


def check_holdout(holdout: float) -> float:
    """The share itself.

    Raises:
        ConfigError: it is not in [0, 1).
    """
    if not 0 <= holdout < 1:
        raise ConfigError(
            f"holdout is {holdout}", hint="it is a share, 0 <= holdout < 1", key="holdout"
        )
    return holdout


def share_of(split: Split, holdout: float) -> float:
    """About which share of all documents a split has."""
    return {"train": 1 - holdout, "validation": holdout, "all": 1.0}[split]


def is_held_out(key: str, holdout: float) -> bool:
    """True for about the share `holdout` of all keys: a document's file name, or its content.

    The answer does not change when other documents come or go, and equal documents share it.
    """
    return _rank(key) < _threshold(holdout)


def split_documents(
    documents: Iterable[tuple[str, Prompt]], split: Split, holdout: float
) -> Iterator[Prompt]:
    """The documents of one split.

    A document is held out if its key says so (`is_held_out`). Two rules serve small collections:
    if no key says so, the document nearest to it is held out; a single text is divided instead, and
    its last `holdout` share of characters is held out.

    Args:
        documents: (key, document) pairs.
    """
    if split == "all" or holdout == 0:
        if split != "validation":
            yield from (document for _, document in documents)
        return
    wanted = split == "validation"
    for held_out, document in _marked(iter(documents), holdout):
        if held_out == wanted:
            yield document


def _marked(
    documents: Iterator[tuple[str, Prompt]], holdout: float
) -> Iterator[tuple[bool, Prompt]]:
    """(held out, document) pairs, each as soon as it is decided."""
    first = next(documents, None)
    second = next(documents, None)
    if first is None:
        return
    if second is None:
        yield from _halves(first[1], holdout)
        return
    threshold = _threshold(holdout)
    nearest: tuple[int, Prompt] | None = None  # the one to hold out if no key says so
    found = False
    for key, document in chain([first, second], documents):
        rank = _rank(key)
        if found:
            yield rank < threshold, document
        elif rank < threshold:
            found = True
            if nearest:
                yield False, nearest[1]
            yield True, document
        elif nearest is None:
            nearest = rank, document
        elif rank < nearest[0]:
            yield False, nearest[1]
            nearest = rank, document
        else:
            yield False, document
    if nearest and not found:
        yield True, nearest[1]


def _halves(document: Prompt, holdout: float) -> Iterator[tuple[bool, Prompt]]:
    if document.text is None:
        yield False, document
        return
    cut = int(len(document.text) * (1 - holdout))
    yield False, replace(document, text=document.text[:cut])
    yield True, replace(document, text=document.text[cut:])


def _rank(key: str) -> int:
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass"))
    return int(digest.hexdigest()[:8], 16) % _STEPS


def _threshold(holdout: float) -> int:
    return round(holdout * _STEPS)
