"""memory: where it does not suffice for all rows at once, half of them are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from lmkit.errors import ConfigError, is_out_of_memory

T = TypeVar("T")


def in_halves(work: Callable[[int, int], T], start: int, stop: int) -> Iterator[T]:
    """`work(start, stop)`; where memory does not suffice, of each half by itself, in their order.

    Raises:
        ConfigError: the memory does not suffice for one.
    """
    try:
        done = work(start, stop)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if stop - start < 2:
            raise ConfigError(
                f"the memory does not suffice for one row: {error}",
                hint="a smaller model or max_len",
            ) from error
    else:
        yield done
        return
    # out of the except: the error holds the frames, and with them the tensors, of what failed
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = (start + stop) // 2
    yield from in_halves(work, start, middle)
    yield from in_halves(work, middle, stop)
