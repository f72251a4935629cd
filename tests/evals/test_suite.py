from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from lmkit.errors import ConfigError, DataError, PluginError
from lmkit.evals import Problem, TaskResult, centered_mean, evaluate_task
from lmkit.inference import Sampling
from lmkit.prompts import Message
from lmkit.text import Byte, chat
from lmkit_models.gpt import GPT

# question -> right answer; the model below knows the first two, and does not end the third
ANSWERS = {"a": "1", "bb": "22", "ccc": "3", "dddd": "4"}
KNOWS = {"a": {"1": 1.0}, "bb": {"22": 1.0}, "ccc": {"3...": 1.0}, "dddd": {"no": 1.0}}


def test_the_share_of_right_answers_and_how_sure_that_is(rule: Any, quiz: Any) -> None:
    result = evaluate_task(rule(KNOWS), quiz(ANSWERS))
    assert (result.name, result.count, result.value) == ("quiz", 4, 0.5)
    assert result.stderr == pytest.approx(math.sqrt(0.5 * 0.5 / 4))
    assert (result.chance, result.centered, result.at_k) == (0.0, 0.5, {})
    assert result.ended == 0.75


def test_the_first_problems_of_a_split_are_asked(rule: Any, quiz: Any) -> None:
    model = rule(KNOWS)
    assert evaluate_task(model, quiz(ANSWERS), limit=3).value == pytest.approx(2 / 3)
    assert evaluate_task(model, quiz(ANSWERS), limit=99).count == 4
    assert evaluate_task(model, quiz(ANSWERS), split="train").value == 0.0


def test_scores_may_be_fractions(rule: Any, quiz: Any) -> None:
    class Partly(quiz):
        def score(self, problem: Problem, completion: object) -> float:
            return len(problem.answer) / 4

    result = evaluate_task(rule(KNOWS), Partly(ANSWERS))
    assert result.value == pytest.approx((3 * 0.25 + 0.5) / 4)
    assert result.stderr == pytest.approx(math.sqrt((3 * 0.0625**2 + 0.1875**2) / 4 / 4))


def test_the_task_says_how_long_an_answer_may_be(rule: Any, quiz: Any) -> None:
    task = quiz({"q": "123456"})
    task.max_new_tokens = 6
    model = rule({"q": {"123456...": 1.0}})
    assert evaluate_task(model, task).value == 1.0
    assert evaluate_task(model, task, sampling=Sampling(max_new_tokens=5)).value == 0.0


@pytest.mark.parametrize("batch", [1, 2, 3, 32])
def test_a_problem_does_not_depend_on_its_neighbours(rule: Any, quiz: Any, batch: int) -> None:
    assert evaluate_task(rule(KNOWS), quiz(ANSWERS), batch=batch).value == 0.5


def test_batches_are_of_about_one_length(rule: Any, quiz: Any) -> None:
    model = rule({})
    questions = {"x" * length: "?" for length in (9, 1, 8, 2)}
    task = quiz(questions)
    task.max_new_tokens = 1
    evaluate_task(model, task, batch=2)
    asked = [len(chat.ask(Byte(), (Message("user", q),))) for q in ("x" * 2, "x" * 9)]
    assert [len(row) for row in model.read[-4:]] == [asked[0]] * 2 + [asked[1]] * 2


def evaluated_by(size: int, model: Any, task: Any, **options: Any) -> list[TaskResult]:
    """What each rank gets; sums are exchanged by asking every rank twice."""
    sent: list[list[float]] = []

    def note(values: Sequence[float]) -> list[float]:
        sent.append(list(values))
        return [1.0] * len(values)

    for rank in range(size):
        evaluate_task(model, task, rank=rank, size=size, add=note, **options)
    total = [math.fsum(column) for column in zip(*sent, strict=True)]
    return [
        evaluate_task(model, task, rank=rank, size=size, add=lambda values: total, **options)
        for rank in range(size)
    ]


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("kind", ["generative", "choice", "letters"])
def test_the_numbers_are_the_same_over_ranks(quiz: Any, kind: str, size: int) -> None:
    torch.manual_seed(0)
    model = GPT(tokenizer=Byte(), vocab_size=257, depth=1, width=16, head_dim=8, max_len=64)
    torch.nn.init.normal_(model.head.weight)
    task = quiz({"q" * n: "ABC"[n % 3] for n in range(1, 12)}, choices="ABC")
    task.kind = kind
    task.score = lambda problem, completion: len(completion.text) / 8  # sums of eighths are exact
    task.max_new_tokens = 3
    alone = evaluate_task(model, task, batch=2)
    assert evaluated_by(size, model, task, batch=2) == [alone] * size
    assert evaluate_task(model, task, batch=2) == alone


def test_a_rank_asks_only_its_share(rule: Any, quiz: Any) -> None:
    told: list[int] = []
    for rank in range(2):
        evaluate_task(
            rule(KNOWS), quiz(ANSWERS), rank=rank, size=2, batch=1,
            add=lambda values: [1.0] * len(values), progress=told.append,
        )  # fmt: skip
    assert told == [1] * 4


def repeated(quiz: Any, times: int) -> Any:
    """The quiz with each of its questions so many times."""
    task = quiz(ANSWERS)
    once = task.problems("validation")
    task.problems = lambda split: [problem for problem in once for _ in range(times)]
    return task


def test_a_question_that_comes_again_makes_nothing_surer(rule: Any, quiz: Any) -> None:
    once = evaluate_task(rule(KNOWS), quiz(ANSWERS))
    again = evaluate_task(rule(KNOWS), repeated(quiz, 5))
    assert (again.count, again.value) == (20, once.value)
    assert again.stderr == pytest.approx(once.stderr)


def test_a_question_weighs_as_often_as_it_is_asked(rule: Any, quiz: Any) -> None:
    task = quiz(ANSWERS)
    first, *others = task.problems("validation")
    task.problems = lambda split: [first, first, *others]
    result = evaluate_task(rule(KNOWS), task)
    assert result.value == pytest.approx(3 / 5)
    gaps = (2 - 2 * 0.6, 1 - 0.6, -0.6, -0.6)
    assert result.stderr == pytest.approx(math.hypot(*gaps) / 5)


def test_the_same_words_with_other_choices_are_another_question(rule: Any, quiz: Any) -> None:
    knows = {"p": {"yes": 0.9, "no": 0.1}}
    task = quiz({"p": "yes"}, choices=("no", "yes"))
    (problem,) = task.problems("validation")
    other = replace(problem, choices=("yes", "no", "so"), correct=1)
    task.problems = lambda split: [problem, other]
    result = evaluate_task(rule(knows), task)
    assert result.stderr == pytest.approx(0.5 / math.sqrt(2))


@pytest.mark.parametrize("size", [2, 3])
def test_equal_questions_on_several_ranks_are_one(rule: Any, quiz: Any, size: int) -> None:
    model, task = rule(KNOWS), repeated(quiz, 5)
    alone = evaluate_task(model, task, batch=2)
    assert evaluated_by(size, model, task, batch=2) == [alone] * size


def test_samples_give_pass_at_k(rule: Any, quiz: Any) -> None:
    knows = {q: {"1": 0.5, "0": 0.5} for q in ("a", "bb", "ccc")}
    task = quiz(dict.fromkeys(knows, "1"))
    sampling = Sampling(temperature=1.0, max_new_tokens=4, seed=1)
    result = evaluate_task(rule(knows), task, sampling=sampling, samples=6)
    assert sorted(result.at_k) == [1, 2, 4, 6]
    assert result.at_k[1] == pytest.approx(result.value)
    assert 0 < result.value < result.at_k[2] < result.at_k[6] == 1.0
    assert result.ended == 1.0


def test_draws_do_not_depend_on_the_batch(rule: Any, quiz: Any) -> None:
    knows = {"q" * n: {"1": 0.5, "0": 0.5} for n in range(1, 9)}
    task = quiz(dict.fromkeys(knows, "1"))
    sampling = Sampling(temperature=1.0, max_new_tokens=4)
    results = [
        evaluate_task(rule(knows), task, sampling=sampling, samples=2, batch=batch)
        for batch in (1, 5, 32)
    ]
    assert results == results[:1] * 3
    other = evaluate_task(rule(knows), task, sampling=replace(sampling, seed=5), samples=2)
    assert other != results[0]


def test_choices_are_compared_by_likelihood(rule: Any, quiz: Any) -> None:
    knows = {"p": {"yes": 0.7, "no": 0.3}, "q": {"yes": 0.4, "no": 0.6}, "r": {"yes": 1.0}}
    task = quiz({"p": "yes", "q": "no", "r": "no"}, choices=("no", "yes"))
    result = evaluate_task(rule(knows), task)
    assert result.value == pytest.approx(2 / 3)
    assert (result.chance, result.ended) == (0.5, None)
    assert result.centered == pytest.approx((2 / 3 - 0.5) / 0.5)


def test_letters_are_compared_by_the_logits_after_the_question(rule: Any, quiz: Any) -> None:
    knows = {"p": {"x": 0.9, "A": 0.06, "B": 0.04}, "q": {"A": 0.1, "B": 0.9}}
    task = quiz({"p": "A", "q": "A"}, choices="AB")
    task.kind = "letters"
    assert evaluate_task(rule(knows), task).value == 0.5


def test_a_question_longer_than_the_context_is_counted(rule: Any, quiz: Any) -> None:
    task = quiz({"q" * 60: "1", "q": "1"}, choices="12")
    assert evaluate_task(rule({}, max_len=50), task).cut == 1


@pytest.mark.parametrize("key", ["limit", "batch", "samples"])
def test_nothing_cannot_be_asked(rule: Any, quiz: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is 0; it must be 1 or more"):
        evaluate_task(rule(KNOWS), quiz(ANSWERS), **{key: 0})


def test_samples_need_a_temperature_and_a_task_that_is_answered(rule: Any, quiz: Any) -> None:
    with pytest.raises(ConfigError, match="would all be the same"):
        evaluate_task(rule(KNOWS), quiz(ANSWERS), samples=2)
    with pytest.raises(ConfigError, match="quiz offers choices"):
        evaluate_task(rule(KNOWS), quiz({"a": "1"}, choices="12"), samples=2)


def test_a_task_without_problems(rule: Any, quiz: Any) -> None:
    with pytest.raises(DataError, match="the task quiz has no problem in 'train'"):
        evaluate_task(rule(KNOWS), quiz({}), split="train")


@pytest.mark.parametrize(("choices", "correct"), [("A", 0), ("AB", 2), ("AB", -1), ("", 0)])
def test_a_problem_that_cannot_be_chosen_in(
    rule: Any, quiz: Any, choices: str, correct: int
) -> None:
    task = quiz({})
    task.kind = "choice"
    wrong = Problem(
        (Message("user", "q"),), choices=tuple(choices), correct=correct, at="f.jsonl:3"
    )
    task.problems = lambda split: [wrong]
    with pytest.raises(DataError, match=r"f\.jsonl:3: a problem of . choices"):
        evaluate_task(rule(KNOWS), task)


def test_a_score_that_fails_names_the_problem(rule: Any, quiz: Any) -> None:
    class Broken(quiz):
        def score(self, problem: Problem, completion: object) -> float:
            raise KeyError("oops")

    with pytest.raises(PluginError, match=r"quiz:1: .*Broken\.score fails: KeyError") as caught:
        evaluate_task(rule(KNOWS), Broken(ANSWERS))
    assert "in score" in caught.value.traceback


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_must_be_finite(rule: Any, quiz: Any, score: float) -> None:
    task = quiz(ANSWERS)
    task.score = lambda problem, completion: score
    with pytest.raises(DataError, match="quiz:1: the task quiz gave an answer the score"):
        evaluate_task(rule(KNOWS), task)


def test_a_conversation_that_cannot_be_asked_names_its_place(rule: Any, quiz: Any) -> None:
    task = quiz({})
    task.problems = lambda split: [Problem((Message("assistant", "?"),), at="f.jsonl:7")]
    with pytest.raises(DataError, match=r"f\.jsonl:7"):
        evaluate_task(rule(KNOWS), task)


def test_the_mean_over_tasks_weighs_each_alike() -> None:
    def result(value: float, chance: float) -> TaskResult:
        return TaskResult("t", value, 0.0, 10, chance, {}, None)

    assert centered_mean([result(0.625, 0.25), result(0.1, 0.0)]) == pytest.approx(0.3)
