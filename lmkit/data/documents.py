"""documents: what a source gives, each made sure to be a document; knows no particular source.

Whoever reads a source reads it here: what goes wrong in one of a user's is told in one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lmkit.config.names import MEND, full_name, plugin_errors
from lmkit.data.columns import Columns
from lmkit.data.holdout import Split
from lmkit.prompts import Prompt

if TYPE_CHECKING:
    from lmkit.data.sources import Source


def read_documents(source: Source, split: Split) -> Iterator[Prompt]:
    """The documents of a split, in their order.

    Raises:
        DataError: one is no document; says which.
        PluginError: the source's `documents` fails; holds its traceback.
    """
    name = f"{full_name(type(source))}.documents"
    with plugin_errors(f"{name} fails", hint=MEND):
        for number, document in enumerate(source.documents(split)):
            if isinstance(document, Prompt):
                yield document
            else:
                yield as_document(document, f"{name}, document {number}")


def as_document(value: str | Mapping[str, Any] | Prompt, at: str) -> Prompt:
    """A text for a string, for a mapping what `JsonLines` makes of such a line.

    Raises:
        DataError: it is neither, or the mapping is no document; names `at`.
    """
    if isinstance(value, str):
        return Prompt(text=value, at=at)
    if isinstance(value, Mapping):
        return Columns().prompt_of(value, at)
    return Prompt.of(value, at)
