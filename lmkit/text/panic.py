"""panic: what ends in the Rust of tiktoken and rustbpe, as an error of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lmkit.errors import TokenizerError


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
