"""Which of two measurements is the better one."""

from __future__ import annotations

import pytest

from lmkit.checkpoints.best import Best


@pytest.mark.parametrize(
    ("text", "metric", "better", "worse"),
    [
        ("bits_per_byte", "bits_per_byte", 1.0, 2.0),
        ("loss", "loss", -1.0, 1.0),
        ("arithmetic", "arithmetic", 0.9, 0.1),
        ("min:perplexity", "perplexity", 3.0, 4.0),
        ("max:loss", "loss", 4.0, 3.0),
        ("mine:x", "mine:x", 1.0, 0.0),
    ],
)
def test_the_better_one_ranks_first(text: str, metric: str, better: float, worse: float) -> None:
    best = Best.of(text)
    assert best.metric == metric
    first, second = best.rank({metric: better}), best.rank({metric: worse})
    assert first is not None
    assert second is not None
    assert first < second


def test_what_was_not_measured_has_no_rank() -> None:
    assert Best.of("loss").rank({}) is None
    assert Best.of("max:loss").rank({"loss": None}) is None, "it was not finite"
