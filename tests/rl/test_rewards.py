from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lmkit.config import Spec, add_search_folder
from lmkit.errors import ConfigError, NumericError, PluginError
from lmkit.evals.task import Problem, Task
from lmkit.prompts import Completion, Message
from lmkit.rl.rewards import Ended, Format, Length, Rewards

PROBLEM = Problem((Message("user", "a"),), answer="a", at="problems.jsonl:3")


def answer(text: str, finish: Any = "stop") -> Completion:
    return Completion("a", text, tuple(text.encode()), finish)


def test_the_task_scores_where_nothing_else_is_named(task: Task) -> None:
    rewards = Rewards((), task)
    assert rewards.names == ["score"]
    assert rewards(PROBLEM, answer("aa\xe9")) == (2 / 6, [2 / 6])


def test_rewards_are_weighed_and_told_apart(task: Task) -> None:
    length = {"class": "lmkit.rl.rewards.Length", "free": 2, "limit": 6}
    wishes = [
        {"reward": "task", "weight": 2.0},
        {"reward": Spec.of(length)},
        {"reward": "lmkit.rl.rewards.Ended", "weight": 0.5},
    ]
    rewards = Rewards(wishes, task)
    assert rewards.names == ["score", "length", "ended"]
    total, parts = rewards(PROBLEM, answer("aaa\xe9", "length"))
    assert parts == [0.5, 0.25, 0.0]
    assert total == 1.25


def test_a_users_function_is_a_reward(task: Task, tmp_path: Path) -> None:
    source = "def shout(problem, completion):\n    return float(completion.text.isupper())\n"
    (tmp_path / "loud_reward.py").write_text(source)
    add_search_folder(str(tmp_path))
    rewards = Rewards([{"reward": "loud_reward.shout"}], task)
    assert rewards.names == ["shout"]
    assert rewards(PROBLEM, answer("AH"))[0] == 1.0


@pytest.mark.parametrize(("text", "value"), [("{a: 1}", 1.0), ("{a\n}", 1.0), ("x {a}", 0.0)])
def test_format_matches_the_whole_answer(text: str, value: float) -> None:
    assert Format(r"\{.*\}")(PROBLEM, answer(text)) == value


@pytest.mark.parametrize(("tokens", "value"), [(0, 1.0), (2, 1.0), (3, 0.5), (4, 0.0), (9, 0.0)])
def test_length_falls_from_free_to_limit(tokens: int, value: float) -> None:
    assert Length(2, 4)(PROBLEM, answer("a" * tokens)) == value


def test_ended_asks_how_the_answer_ended() -> None:
    assert Ended()(PROBLEM, answer("a")) == 1.0
    assert Ended()(PROBLEM, answer("a", "length")) == 0.0


def test_a_reward_that_fails_is_named_with_its_traceback(task: Task) -> None:
    def broken(problem: Problem, completion: Completion) -> float:
        raise KeyError("x")

    with pytest.raises(PluginError, match=r"problems.jsonl:3: the reward broken fails") as error:
        Rewards([{"reward": broken}], task)(PROBLEM, answer("a"))
    assert "KeyError" in error.value.traceback


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_finite_number_is_refused(task: Task, value: float) -> None:
    def odd(problem: Problem, completion: Completion) -> float:
        return value

    rewards = Rewards([{"reward": odd}], task)
    with pytest.raises(NumericError, match=r"problems.jsonl:3: the reward odd is"):
        rewards(PROBLEM, answer("a"))


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ([{"rewards": "task"}], "a reward is"),
        ([{"reward": 3}], "is no reward"),
        ([{"reward": "task"}, {"reward": "task"}], "comes twice"),
        ([{"reward": "lmkit.rl.rewards.Endd"}], "did you mean 'Ended'"),
    ],
)
def test_a_wrong_wish_is_explained(task: Task, wishes: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Rewards(wishes, task)


def test_wrong_arguments_of_rewards_are_explained() -> None:
    with pytest.raises(ConfigError, match="0 <= free < limit"):
        Length(4, 4)
    with pytest.raises(ConfigError, match="no regular expression"):
        Format("(")
