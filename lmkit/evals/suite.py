"""suite: a model is asked the problems of a task; says how many it solves, and how sure that is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from lmkit.config.names import MEND, full_name, plugin_errors
from lmkit.data.holdout import Split
from lmkit.errors import ConfigError, DataError, LMKitError
from lmkit.evals.choice import answer_scores, letter_scores
from lmkit.evals.generative import pass_at_k, write_answers
from lmkit.evals.task import Problem, Task, read_problems
from lmkit.inference import Sampling
from lmkit.model import LMBase
from lmkit.model.memory import in_halves
from lmkit.prompts import Completion
from lmkit.text import chat
from lmkit.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a model did in a task.

    Attributes:
        name: the task's.
        value: mean score of a problem; the accuracy where a score is 0 or 1.
        stderr: standard error of `value`, from the variance of the problems' scores: about two
            times in three the accuracy over endlessly many such problems is this near. Problems
            that ask the same say nothing new and are taken together (clustered errors).
        count: problems asked.
        chance: what blind guessing reaches.
        at_k: with several samples a problem, {k: how often one of k answers at least is right}.
        ended: share of the answers that the model ended by itself; None where it writes nothing.
        cut: problems whose question is longer than the context, so that only its end was read.
    """

    name: str
    value: float
    stderr: float
    count: int
    chance: float
    at_k: dict[int, float]
    ended: float | None
    cut: int = 0

    @property
    def centered(self) -> float:
        """`value` on a scale where guessing is 0 and perfect is 1."""
        return (self.value - self.chance) / (1 - self.chance)


def evaluate_task(
    model: LMBase,
    task: Task,
    *,
    split: Split = "validation",
    limit: int | None = None,
    rank: int = 0,
    size: int = 1,
    add: Callable[[Sequence[float]], list[float]] = list,
    sampling: Sampling | None = None,
    samples: int = 1,
    batch: int = 32,
    progress: Callable[[int], object] = lambda count: None,
) -> TaskResult:
    """Ask the model and score its answers; of a choice task, compare the choices' likelihoods.

    Batches are made of problems of about one length, the same ones on any number of ranks, which
    take them in turn: the numbers are the same to the bit for the same model and machine.

    Args:
        split: the problems that are asked,
        limit: and at most how many, the first ones.
        rank: of `size` ranks, each of which asks some of the problems;
        add: sums numbers over all of them.
        sampling: how answers are drawn; the likeliest tokens, `task.max_new_tokens` of them, if
            left out.
        samples: answers a problem, for pass@k; they count alike in `value`.
        batch: rows at once; half of them where the memory does not hold them.
        progress: is told after each batch of this rank how many problems it had.

    Raises:
        ConfigError: a limit, batch or number of samples below 1, or several samples that would be
            the same for want of a temperature.
        DataError: no problems, or one without choices or with a score that is not finite.
        NumericError: logits that are not finite.
        PluginError: the task's `problems` or `score` fails; holds its traceback.
    """
    sampling = sampling or Sampling(max_new_tokens=task.max_new_tokens)
    _check(task, limit, batch, samples, sampling)
    problems = read_problems(task, split)[:limit]
    if not problems:
        raise DataError(f"the task {task.name} has no problem in {split!r}")
    lengths = [_length(model.need_tokenizer(), problem) for problem in problems]
    order = sorted(range(len(problems)), key=lambda number: (lengths[number], number))
    rows = samples if task.kind == "generative" else _rows(task, problems)
    at_once = max(1, batch // rows)
    batches = [order[start : start + at_once] for start in range(0, len(order), at_once)]
    marks: list[_Mark] = []
    own = batches[rank::size]
    for numbers in own:
        asked = [(number, problems[number]) for number in numbers]
        mark = partial(_marks, model, task, asked, sampling, samples)
        marks += chain.from_iterable(in_halves(mark, 0, len(asked)))
        progress(len(numbers))
    questions = _questions(problems)
    of_marks = [questions[number] for numbers in own for number in numbers]
    cut = sum(length > model.max_len for length in lengths)
    return _result(task, marks, of_marks, Counter(questions), samples, cut, add)


def centered_mean(results: Sequence[TaskResult]) -> float:
    """Mean of `TaskResult.centered`: one number for several tasks (nanochat's ChatCORE)."""
    return sum(result.centered for result in results) / len(results)


@dataclass(frozen=True, slots=True)
class _Mark:
    """How one problem went: the score of each answer, and how many answers ended by themselves."""

    scores: list[float]
    chance: float
    ended: int = 0


def _check(task: Task, limit: int | None, batch: int, samples: int, sampling: Sampling) -> None:
    for key, value in (("limit", limit), ("batch", batch), ("samples", samples)):
        if value is not None and value < 1:
            raise ConfigError(f"{key} is {value}", hint="it must be 1 or more", key=key)
    if samples > 1 and task.kind != "generative":
        what = f"the task {task.name} offers choices: it has no samples to draw"
        raise ConfigError(what, hint="leave samples out", key="samples")
    if samples > 1 and sampling.temperature == 0:
        what = f"{samples} samples at temperature 0 would all be the same"
        raise ConfigError(what, hint="give a temperature, such as 1.0", key="samples")


def _length(tokenizer: Tokenizer, problem: Problem) -> int:
    try:
        return len(chat.ask(tokenizer, problem.messages))
    except LMKitError as error:
        error.at = error.at or problem.at or None
        raise


def _rows(task: Task, problems: Sequence[Problem]) -> int:
    """Rows that a problem of choices takes at most: one a choice, or one where they are letters."""
    for problem in problems:
        count = len(problem.choices)
        if count < 2 or not 0 <= problem.correct < count:
            what = f"a problem of {count} choices, of which number {problem.correct} is right"
            raise DataError(what, hint="it needs two or more", at=problem.at or task.name)
    return 1 if task.kind == "letters" else max(len(problem.choices) for problem in problems)


def _questions(problems: Sequence[Problem]) -> list[int]:
    """For each problem the number of its question; problems that ask the same share it."""
    numbers: dict[object, int] = {}
    return [
        numbers.setdefault((problem.messages, problem.choices), len(numbers))
        for problem in problems
    ]


def _marks(
    model: LMBase,
    task: Task,
    asked: Sequence[tuple[int, Problem]],
    sampling: Sampling,
    samples: int,
    start: int,
    stop: int,
) -> list[_Mark]:
    """Of asked[start:stop]."""
    asked = asked[start:stop]
    problems = [problem for _, problem in asked]
    if task.kind == "generative":
        answers = write_answers(model, asked, sampling, samples)
        return [
            _Mark(
                [_score(task, problem, answer) for answer in of_problem],
                problem.chance,
                sum(answer.finish == "stop" for answer in of_problem),
            )
            for problem, of_problem in zip(problems, answers, strict=True)
        ]
    scores_of = letter_scores if task.kind == "letters" else answer_scores
    marks = []
    for problem, scores in zip(problems, scores_of(model, problems), strict=True):
        chosen = scores.index(max(scores))  # of equal ones the first
        marks.append(_Mark([float(chosen == problem.correct)], problem.chance))
    return marks


def _score(task: Task, problem: Problem, answer: Completion) -> float:
    at = problem.at or None
    with plugin_errors(f"{full_name(type(task))}.score fails", at, MEND):
        score = float(task.score(problem, answer))
    if not math.isfinite(score):
        raise DataError(f"the task {task.name} gave an answer the score {score}", at=at)
    return score


def _result(
    task: Task,
    marks: Sequence[_Mark],
    questions: Sequence[int],
    asked: Mapping[int, int],
    samples: int,
    cut: int,
    add: Callable[[Sequence[float]], list[float]],
) -> TaskResult:
    """The marks of all ranks in numbers; a rank may have none.

    Args:
        questions: which question each mark is of;
        asked: how often all ranks together ask each. Its scores may come from several ranks, so
            they are summed over the ranks question by question.
    """
    of_question = [0.0] * len(asked)
    means = [math.fsum(mark.scores) / samples for mark in marks]
    right = [sum(score >= 1 for score in mark.scores) for mark in marks]
    for question, mean in zip(questions, means, strict=True):
        of_question[question] += mean
    ks = [k for k in range(1, samples + 1) if k & (k - 1) == 0 or k == samples]
    count, total, chance, ended, *sums = add(
        [
            len(marks),
            math.fsum(means),
            math.fsum(mark.chance for mark in marks),
            sum(mark.ended for mark in marks),
            *(math.fsum(pass_at_k(found, samples, k) for found in right) for k in ks),
            *of_question,
        ]
    )
    value = total / count
    passed, of_question = sums[: len(ks)], sums[len(ks) :]
    apart = (of_question[question] - value * times for question, times in asked.items())
    return TaskResult(
        task.name,
        value,
        math.sqrt(math.fsum(gap * gap for gap in apart)) / count,
        int(count),
        chance / count,
        {k: sum_of_k / count for k, sum_of_k in zip(ks, passed, strict=True)}
        if samples > 1
        else {},
        ended / (count * samples) if task.kind == "generative" else None,
        cut,
    )
