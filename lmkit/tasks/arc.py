"""arc: science questions of school exams, most with four choices, in an easy and a hard set.

Clark et al., arXiv 1803.05457. The hard ones are those that neither a search nor counting words
together answers. Easy: 2,251 to train on, 2,376 measured; hard: 1,119 and 1,172.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmkit.errors import DataError
from lmkit.evals.task import Problem
from lmkit.tasks.letters import letter_problem
from lmkit.tasks.tables import TableTask, column


class ArcEasy(TableTask):
    """Rows `{question, choices: {text: [...], label: [...]}, answerKey}`.

    The key is one of the labels, which are A to E or 1 to 5; the model is shown letters.
    """

    name = "arc_easy"
    kind = "letters"
    max_new_tokens = 8
    corpus = "arc"
    parts = ("easy_train", "easy_test")

    def problem(self, row: Mapping[str, Any], at: str) -> Problem:
        choices = column(row, "choices", dict, at)
        texts, labels = (column(choices, name, list, at) for name in ("text", "label"))
        key = column(row, "answerKey", str, at)
        if key not in labels or len(labels) != len(texts):
            said = f"answerKey {key!r} is no label of {len(texts)} choices: {labels}"
            raise DataError(said, hint="it is one of them", at=at)
        return letter_problem(column(row, "question", str, at), texts, labels.index(key), at)


class ArcChallenge(ArcEasy):
    """The hard questions, in the same form."""

    name = "arc_challenge"
    parts = ("challenge_train", "challenge_test")
