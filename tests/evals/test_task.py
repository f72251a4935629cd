from __future__ import annotations

from typing import Any

import pytest

from lmkit.evals import Problem, Task
from lmkit.prompts import Completion, Message


def test_a_task_is_called_after_its_class_unless_it_says(quiz: Any) -> None:
    class Riddles(quiz):
        pass

    class Named(Riddles):
        name = "other"

    assert (Riddles.name, Named.name) == ("riddles", "other")


def test_problems_with_a_solution_are_documents(quiz: Any) -> None:
    task = quiz({})
    question, answer = Message("user", "q"), Message("assistant", "a")
    task.problems = lambda split: [Problem((question,), answer, at="f:1"), Problem((question,))]
    (document,) = task.documents("train")
    assert (document.messages, document.at) == ((question, answer), "f:1")


def test_a_task_of_choices_scores_what_is_written(quiz: Any) -> None:
    class Letters(quiz):
        score = Task.score

    (problem,) = Letters({"q": "B"}, choices="AB").problems("validation")
    for text, score in (("B", 1.0), (" B\n", 1.0), ("A", 0.0), ("B, I think", 0.0)):
        assert Letters({}).score(problem, Completion("q", text, (), "stop")) == score
    with pytest.raises(NotImplementedError, match="Letters has no score"):
        Letters({}).score(Problem(problem.messages), Completion("q", "B", (), "stop"))
