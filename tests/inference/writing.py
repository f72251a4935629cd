"""What decode writes behind some prompts; of all that it yields, the ids of each row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from lmkit.inference import Rows, Sampling, decode


def written(
    forward: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    samples: int = 1,
    stop_ids: Collection[int] = (),
    after: Callable[[int, int], Sequence[int]] | None = None,
    ended: Collection[int] = (),
    **options: Any,
) -> list[list[int]]:
    rows = Rows(prompts, sampling.max_new_tokens, samples, stop_ids, after)
    rows.ended.update(ended)
    new: list[list[int]] = [[] for _ in range(len(rows))]
    for row, token, _ in decode(forward, rows, sampling, **options):
        new[row].append(token)
    return new
