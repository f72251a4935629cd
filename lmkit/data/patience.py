"""patience: which failures on the network may pass, and when to try again; transfers nothing."""

from __future__ import annotations

import http
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TypeVar

from lmkit.errors import DataError

logger = logging.getLogger(__name__)

T = TypeVar("T")
PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers that may be others a little later
HINTS = {
    401: "it wants a name and a password, or a token",
    403: "you may not read it; it may want a token",
    404: "look whether the name is right",
}


@dataclass(frozen=True)
class Patience:
    """How long a download is tried.

    Attributes:
        waits: seconds before each further try; a server's Retry-After can make them longer.
        longest: seconds that a server may ask for; a longer time is an error.
        silence: seconds without a byte after which a connection is given up.
        pause: waits so many seconds.
    """

    waits: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    longest: float = 300.0
    silence: float = 30.0
    pause: Callable[[float], None] = time.sleep


PATIENCE = Patience()


class Passing(Exception):
    """A try that failed for a reason that may pass.

    Args:
        reason: for a reader.
        wait: seconds that the server asks for.

    Attributes:
        moved: the try brought something nevertheless.
    """

    def __init__(self, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait
        self.moved = False


def persevere(work: Callable[[], T], *, at: str, hint: str, patience: Patience = PATIENCE) -> T:
    """What `work` returns, tried again each time that it raises `Passing`.

    A try that brought something begins the count anew: a long download may break often.

    Raises:
        DataError: the last try failed too, or the server asks for too long a wait.
    """
    failed = 0
    while True:
        try:
            return work()
        except Passing as trouble:
            failed = 1 if trouble.moved else failed + 1
            if trouble.wait > patience.longest:
                what = f"{trouble.reason}, and asks to wait {trouble.wait:,.0f} s"
                raise DataError(what, hint=hint, at=at) from trouble
            if failed > len(patience.waits):
                tries = "1 try" if failed == 1 else f"{failed} tries"
                what = f"{trouble.reason}, the last of {tries}"
                raise DataError(what, hint=hint, at=at) from trouble
            wait = max(patience.waits[failed - 1], trouble.wait)
            logger.warning("%s: %s; again in %.3g s", at, trouble.reason, wait)
            patience.pause(wait)


def refused(code: int, retry_after: str | None, *, at: str) -> Passing | DataError:
    """What an HTTP answer that is no success means."""
    known = code in {status.value for status in http.HTTPStatus}
    said = f"the server says {code} {http.HTTPStatus(code).phrase if known else ''}".strip()
    if code in PASSING:
        return Passing(said, wait=_asked_wait(retry_after or ""))
    return DataError(said, hint=HINTS.get(code, ""), at=at)


def _asked_wait(text: str) -> float:
    """Seconds that a Retry-After means, which is a number or a date."""
    if text.strip().isdecimal():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
