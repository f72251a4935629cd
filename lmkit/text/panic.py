"""panic: what tiktoken and rustbpe cannot bear, kept from them or told as an error of one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lmkit.errors import TokenizerError

LONGEST_SPACE = 100_000
_SPACE = re.compile(r"\s{64,}")  # no `\s{100000}`: 99,999 spaces would be tried from each of them


@contextmanager
def told(what: str, *, hint: str = "", at: object = None) -> Iterator[None]:
    """Raise TokenizerError where a regular expression gives up inside, or Rust panics.

    A panic arrives as `pyo3_runtime.PanicException`: a BaseException, which `except Exception` lets
    through, and of a class that cannot be imported.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:200]
        raise TokenizerError(f"{what}: {said}", hint=hint, at=at) from error


def check_unicode(text: str) -> None:
    """Refuse lone surrogates: they have no bytes, and tiktoken would replace them in silence."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(error.start - 20, 0) : error.end + 20]
        raise TokenizerError(
            f"a lone surrogate at character {error.start} is no text: {around!r}",
            hint="mend the text, or read it with errors='replace'",
        ) from error


def cut_spaces(text: str) -> list[str]:
    """Cut inside very long white space: a split pattern tries every way to divide a run of it,
    and at a million spaces the regular expression's stack overflows."""
    if len(text) <= LONGEST_SPACE:
        return [text]
    cuts = [0, len(text)]
    for run in _SPACE.finditer(text):
        cuts[-1:-1] = range(run.start() + LONGEST_SPACE, run.end() + 1, LONGEST_SPACE)
    return [text[start:stop] for start, stop in zip(cuts, cuts[1:], strict=False)]
