from __future__ import annotations

import pytest

from lmkit.errors import DataError
from lmkit.tasks.letters import letter_problem


def test_each_choice_is_followed_by_its_letter() -> None:
    problem = letter_problem("What is 2+2?", ["3", "4"], 1, "f:1")
    assert problem.messages[0].text == "What is 2+2?\n- 3=A\n- 4=B\n\nAnswer with one letter."
    assert problem.choices == ("A", "B")
    assert (problem.correct, problem.answer, problem.solution.text) == (1, "B", "B")
    assert problem.chance == 0.5


@pytest.mark.parametrize(
    ("count", "correct", "said"),
    [(1, 0, "a question with 1 choices"), (27, 0, "with 27"), (2, 2, "choice 2"), (2, -1, "-1")],
)
def test_what_cannot_be_answered(count: int, correct: int, said: str) -> None:
    with pytest.raises(DataError, match=f"f:1: .*{said}"):
        letter_problem("q", ["x"] * count, correct, "f:1")
