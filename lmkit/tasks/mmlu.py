"""mmlu: questions of 57 school and university subjects, each with four choices.

Hendrycks et al., arXiv 2009.03300. To train on there is `auxiliary_train`, 99,842 questions of
other exams; measured are the 14,042 of `test`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmkit.evals.task import Problem
from lmkit.tasks.letters import LETTERS, letter_problem
from lmkit.tasks.tables import TableTask, column


class MMLU(TableTask):
    """Rows `{question, choices, answer}`; the answer is a place in the choices, from 0, or its
    letter. Other columns are left alone."""

    name = "mmlu"
    kind = "letters"
    max_new_tokens = 8
    corpus = "mmlu"
    parts = ("auxiliary_train", "test")

    def problem(self, row: Mapping[str, Any], at: str) -> Problem:
        answer = column(row, "answer", (int, str), at)
        correct = LETTERS.find(answer) if isinstance(answer, str) else answer
        choices = column(row, "choices", list, at)
        return letter_problem(column(row, "question", str, at), choices, correct, at)
