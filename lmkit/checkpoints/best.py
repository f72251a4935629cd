"""best: by which metric checkpoints are compared, and which way; knows no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LOWEST, HIGHEST = "min", "max"
LOWEST_IS_BEST = ("bits_per_byte", "loss")  # of all that lmkit measures; a task's score is not


@dataclass(frozen=True)
class Best:
    """What `checkpoint: {best: ...}` asks for."""

    metric: str
    lowest: bool

    @classmethod
    def of(cls, text: str) -> Best:
        """Read `bits_per_byte`, `arithmetic` or, for a measure of one's own, `min:perplexity`."""
        sense, colon, metric = text.partition(":")
        if colon and sense in (LOWEST, HIGHEST):
            return cls(metric, sense == LOWEST)
        return cls(text, text in LOWEST_IS_BEST)

    def rank(self, metrics: Mapping[str, float | None]) -> float | None:
        """A number that is the smaller the better; None where the metric was not measured."""
        value = metrics.get(self.metric)
        if value is None:
            return None
        return value if self.lowest else -value
