"""core: the CORE metric, how much better than chance a base model is at 22 tasks.

DCLM's (Li et al., arXiv 2406.11794): of each task the accuracy on a scale where guessing is 0 and
perfect is 1; CORE is the mean of the 22. The tasks need no chat: a model goes on with a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmkit.errors import ConfigError
from lmkit.evals.core_bundle import CoreTask, fetched_bundle, read_bundle
from lmkit.evals.core_forms import Row
from lmkit.evals.spans import judge
from lmkit.evals.suite import TaskResult, centered_mean
from lmkit.model import LMBase

WINDOW = 256  # items whose rows are sorted by length together: about a million ids


@dataclass(frozen=True, slots=True)
class CoreResult:
    """What was measured.

    Attributes:
        value: CORE, the mean of `TaskResult.centered` over the tasks.
        stderr: its standard error, from those of the tasks.
        tasks: of each the accuracy; `cut` counts items of which only the end was read.
    """

    value: float
    stderr: float
    tasks: tuple[TaskResult, ...]


def evaluate_core(
    model: LMBase,
    folder: str | Path | None = None,
    *,
    limit: int | None = None,
    rank: int = 0,
    size: int = 1,
    add: Callable[[Sequence[float]], list[float]] = list,
    progress: Callable[[TaskResult], object] = lambda result: None,
) -> CoreResult:
    """Measure CORE, many items at once, those of about one length together.

    An item's prompt is the same whatever the limit and the number of ranks, and its number does not
    depend on the items beside it (but for the last bits of the arithmetic). Of a prompt longer
    than the model's context the end is read.

    Args:
        folder: the bundle, with core.yaml in it; downloaded (162 MB) if left out.
        limit: at most so many items of a task, the first ones of an order that was drawn once.
        rank: of `size` ranks, each of which reads some of the items;
        add: sums numbers over all of them.
        progress: is told each task's result as soon as it is there.

    Raises:
        ConfigError: a limit below 1.
        DataError: the folder is no bundle, or an item is broken; names file and line.
        ModelError: the model has no tokenizer.
        NumericError: logits that are not finite.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}", hint="it must be 1 or more", key="limit")
    results = []
    for task in read_bundle(fetched_bundle() if folder is None else Path(folder).expanduser()):
        rows = task.read()
        numbers = range(len(rows))[:limit]
        right, cut = _solve(model, task, rows, numbers[rank::size])
        right, cut = add([right, cut])
        results.append(_result(task, len(numbers), right, int(cut)))
        progress(results[-1])
    errors = [result.stderr / (1 - result.chance) for result in results]
    stderr = math.sqrt(math.fsum(error * error for error in errors)) / len(results)
    return CoreResult(centered_mean(results), stderr, tuple(results))


def _solve(
    model: LMBase, task: CoreTask, rows: list[Row], numbers: Sequence[int]
) -> tuple[float, float]:
    """How many of these items are solved, and of how many only the end was read."""
    right = cut = 0
    for start in range(0, len(numbers), WINDOW):
        items = [task.with_shots(rows, number) for number in numbers[start : start + WINDOW]]
        asked = task.form.spans(model.need_tokenizer(), items)
        read = [[span.cropped(model.max_len) for span in spans] for spans in asked]
        cut += sum(before != after for before, after in zip(asked, read, strict=True))
        found = judge(model, (span for spans in read for span in spans))
        for (row, _), spans in zip(items, read, strict=True):
            right += task.form.is_right(row, [found[span] for span in spans])
    return right, cut


def _result(task: CoreTask, count: int, right: float, cut: int) -> TaskResult:
    accuracy = right / count
    stderr = math.sqrt(accuracy * (1 - accuracy) / count)
    return TaskResult(task.label, accuracy, stderr, count, task.chance, {}, None, cut)
