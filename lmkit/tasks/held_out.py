"""held_out: which problems are measured on and never trained on; reads no files.

The same question, asked with the same words, is never on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lmkit.data.holdout import split_documents
from lmkit.evals.task import Problem


def held_out(
    problems: Sequence[Problem], share: float, key: Callable[[Problem], str]
) -> list[Problem]:
    """About this share of all questions, chosen by the sha256 of each one's key."""
    questions = {problem.messages: problem for problem in problems}.values()
    keyed = ((key(problem), problem.prompt) for problem in questions)
    chosen = {prompt.messages for prompt in split_documents(keyed, "validation", share)}
    return [problem for problem in problems if problem.messages in chosen]


def without(problems: Iterable[Problem], measured: Iterable[Problem]) -> list[Problem]:
    """What may be trained on if `measured` is measured on."""
    asked = {problem.messages for problem in measured}
    return [problem for problem in problems if problem.messages not in asked]
