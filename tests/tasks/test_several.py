from __future__ import annotations

from collections import Counter

import pytest

from lmkit.config import build
from lmkit.errors import ConfigError
from lmkit.prompts import Completion
from lmkit.tasks.arithmetic import Arithmetic
from lmkit.tasks.several import Several, Turn
from lmkit.tasks.spelling import Spelling

SUMS = Arithmetic(operations="+", train=10, validation=4)
WORDS = Spelling(kinds=["count"], train=3, validation=0)


def test_a_round_has_as_many_problems_of_each_as_it_weighs() -> None:
    task = Several([Turn(SUMS, 3), Turn(WORDS)])
    problems = task.problems("train")
    assert len(problems) == 4 * 4  # ten sums need four rounds of three
    asked = [problem.messages for problem in problems]
    sums = [problem.messages for problem in SUMS.problems("train")]
    words = [problem.messages for problem in WORDS.problems("train")]
    assert asked[:8] == [*sums[:3], words[0], *sums[3:6], words[1]]
    assert asked[15] == words[0]  # begun again
    assert Counter(asked)[sums[0]] == 2
    assert problems[-1] == problems[15]
    assert [problem.messages for problem in problems[2:5]] == asked[2:5]
    with pytest.raises(IndexError):
        problems[16]


def test_a_split_without_problems_of_one_task_has_those_of_the_others() -> None:
    assert len(Several([Turn(SUMS), Turn(WORDS)]).problems("validation")) == 4


def test_each_answer_is_scored_by_its_own_task() -> None:
    task = Several([Turn(SUMS), Turn(WORDS)])
    for problem in task.problems("train"):
        assert problem.solution is not None
        right = Completion("", problem.solution.text, (1,), "stop")
        assert task.score(problem, right) == 1.0
        assert task.score(problem, Completion("", "I cannot say", (1,), "stop")) == 0.0


def test_it_is_named_in_a_yaml() -> None:
    sums = {"class": "lmkit.tasks.arithmetic.Arithmetic", "digits": 1}
    spec = {"class": "lmkit.tasks.several.Several", "tasks": [{"task": sums, "weight": 2}]}
    task = build(spec)
    assert task.describe().startswith("by turns: 2 x Arithmetic: ")
    assert task.fingerprint() != build({**spec, "tasks": [{"task": sums}]}).fingerprint()


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ConfigError, match="there are no tasks"):
        Several([])
    with pytest.raises(ConfigError, match="offers choices"):
        build(
            {
                "class": "lmkit.tasks.several.Several",
                "tasks": [{"task": {"class": "lmkit.tasks.mmlu.MMLU"}}],
            }
        )
    with pytest.raises(ConfigError, match="1 or more"):
        Turn(SUMS, 0)
