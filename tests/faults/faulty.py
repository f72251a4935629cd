"""A model for test_ranks: a rank strikes itself, where FAULT says so: RANK:CALL:KIND.

CALL counts the micro-batches that a rank has trained on. No fault strikes after a restart, but
`memory`: from CALL on there is some for one row only, in every start.
"""

from __future__ import annotations

import os
import signal
import time

from lmkit.model import Loss
from lmkit.text import Batch
from lmkit_models.gpt2 import GPT2

rank, call, kind = os.environ.get("FAULT", "none:0:none").split(":")
here = rank in (os.environ["RANK"], "any")
strikes = here and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
left = int(call) + 1  # the first is a trial, before the first step


def strike() -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "node":
        os.killpg(0, signal.SIGKILL)  # torchrun's agent with its ranks
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "leave":
        os._exit(0)
    elif kind == "sleep":
        time.sleep(600)
    elif kind == "broken":
        raise TypeError("a bug of this model")


class Faulty(GPT2):
    """GPT-2 that may end its rank."""

    def loss(self, batch: Batch) -> Loss:
        global left
        left -= self.training
        if strikes and left == 0:
            strike()
        if here and kind == "memory" and left <= 0 and len(batch) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().loss(batch)
