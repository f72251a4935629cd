"""parent: a process that ends with the one that started it; imports no torch."""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>


def die_with_launcher() -> None:
    """Under torchrun, on Linux: be killed when torchrun is.

    Ranks that lost it trained to the end as orphans, beside those that were started anew. Nothing
    is lost: the last checkpoint is whole.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        import ctypes  # here: every command imports this module

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
