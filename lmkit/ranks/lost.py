"""lost: what torch says when ranks lose each other, on one line; knows not who is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch.distributed as dist

from lmkit.config.secrets import redact
from lmkit.errors import DistributedError, LMKitError

GO_ON = "the same command goes on from the last checkpoint"
LOST_HINT = f"it hangs, or takes longer than runner.collective_timeout allows; {GO_ON}"


@contextmanager
def in_collective() -> Iterator[None]:
    """Around a collective: what it raises is that another rank is gone.

    Raises:
        DistributedError: in the backend's words.
    """
    try:
        yield
    except RuntimeError as error:
        what = f"lost another rank: {words_of(error)}"
        raise DistributedError(what, hint=LOST_HINT) from error


def is_of_collective(error: BaseException | None) -> TypeGuard[RuntimeError]:
    """True for what torch raises when ranks lose each other; gloo's is a plain RuntimeError."""
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and "/gloo/" in str(error)
    )


def words_of(error: Exception) -> str:
    """What an error says, on one line and without secrets; of gloo's words those that tell."""
    text = str(error)
    if is_of_collective(error):
        text = re.sub(r"\[\S*/gloo/\S*\] ", "", text).partition(". ")[0]
    elif not isinstance(error, LMKitError):
        text = f"{type(error).__name__}: {text}"
    return redact(" ".join(line.strip() for line in text.splitlines()))
