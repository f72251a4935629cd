"""repeated: a piece of work done again and again, as an Entry of a contest; knows not which."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping

from benchmarks.contest import Measure
from benchmarks.machine import synchronize


class Repeated(ABC):
    """An Entry that works until the round is over.

    Attributes:
        device: waited for after every piece of work.
        more: what else is worth noting, the same in every round.
    """

    device = "cpu"
    more: Mapping[str, float] = {}

    @abstractmethod
    def work(self) -> float:
        """Do it once; gives how much was done."""

    def round(self, seconds: float) -> Measure:
        """Whole pieces of work, one at least."""
        amount = passed = 0.0
        synchronize(self.device)
        started = time.perf_counter()
        while not amount or passed < seconds:
            amount += self.work()
            synchronize(self.device)
            passed = time.perf_counter() - started
        return Measure(amount, passed, self.more)
