"""task: problems, how to ask them, how to score an answer; data, evaluation and reward at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lmkit.config import Spec, build
from lmkit.config.names import MEND, full_name, plugin_errors
from lmkit.data.holdout import Split
from lmkit.data.sources import Source
from lmkit.errors import ConfigError, DataError
from lmkit.prompts import Completion, Message, Prompt


@dataclass(frozen=True)
class Problem:
    """One question of a task.

    Attributes:
        messages: what is asked; the last turn is the user's.
        solution: the assistant's turn that a model may learn from; None if there is none.
        answer: what a right answer comes to, as `Task.score` reads it.
        choices: of a choice problem all that can be answered, such as ("A", "B", "C", "D").
        correct: which of them is right.
        at: where it was read, ``file:line``, for error messages.
    """

    messages: tuple[Message, ...]
    solution: Message | None = None
    answer: str = ""
    choices: tuple[str, ...] = ()
    correct: int = 0
    at: str = field(default="", compare=False)

    @property
    def prompt(self) -> Prompt:
        """What to ask a model."""
        return Prompt(messages=self.messages, at=self.at)

    @property
    def chance(self) -> float:
        """How often a blind guess is right."""
        return 1 / len(self.choices) if self.choices else 0.0


class Task(Source):
    """A source of conversations that can also be asked and scored.

    A task writes `problems` and `fingerprint`; a generative one `score` too. As a source of
    documents it gives each problem with its solution; as a reward, its score.

    Attributes:
        name: in tables and metrics; the class's in small letters, if it does not say.
        kind: `generative`: the model writes, `score` reads. `choice`: the likeliest of
            `Problem.choices` counts. `letters` are choices that are a token each, so that one
            look at the logits after the question will do.
        max_new_tokens: enough for an answer.
    """

    name: str = ""
    kind: Literal["generative", "choice", "letters"] = "generative"
    max_new_tokens: int = 256

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()

    @abstractmethod
    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of a split, always the same, each a pure function of its index.

        `train` and `validation` have none in common.

        Raises:
            DataError: a file is missing or an entry has no answer; names file and line.
        """

    def score(self, problem: Problem, completion: Completion) -> float:
        """How good a written answer is: 0 is wrong, 1 is right.

        A task of choices has this one, for rewards: the answer is to be the right choice.
        """
        if not problem.choices:
            raise NotImplementedError(f"{type(self).__name__} has no score")
        return float(completion.text.strip() == problem.choices[problem.correct])

    def documents(self, split: Split) -> Iterator[Prompt]:
        for problem in read_problems(self, split):
            if problem.solution is not None:
                yield Prompt(messages=(*problem.messages, problem.solution), at=problem.at)

    def describe(self) -> str:
        return f"{type(self).__name__}: {len(read_problems(self, 'train')):,} problems to train on"


def read_problems(task: Task, split: Split) -> Sequence[Problem]:
    """The problems of a split; whoever asks them reads them here, and the first one is looked at.

    Raises:
        DataError: they are no Problems, or no sequence of them.
        PluginError: the task's `problems` fails; holds its traceback.
    """
    name = f"{full_name(type(task))}.problems"
    with plugin_errors(f"{name} fails", hint=MEND):
        problems = task.problems(split)
        given = problems[:1] if isinstance(problems, Sequence) else [problems]
    if given and not isinstance(given[0], Problem):
        hint = "give a list of Problem(messages=(Message(...),), answer=...)"
        kind = type(given[0]).__name__
        raise DataError(f"{name} gave a {kind}, expected Problems", hint=hint)
    return problems


def open_task(spec: Spec, **offered: Any) -> Task:
    """The task that a spec names.

    Args:
        offered: as of `build`.

    Raises:
        ConfigError: a key of it is wrong, or it is no Task.
    """
    task = build(spec, **offered)
    if not isinstance(task, Task):
        hint = "derive it from lmkit.evals.task.Task"
        raise ConfigError(f"{spec.path} is no task", hint=hint, at=spec.at)
    return task


def open_tasks(specs: Sequence[Spec], folder: str) -> list[Task]:
    """Several, each with a name of its own.

    Args:
        folder: offered to each: where relative paths begin.

    Raises:
        ConfigError: one is no Task, or two have one name.
    """
    tasks: list[Task] = []
    for spec in specs:
        task = open_task(spec, folder=folder)
        if task.name in [other.name for other in tasks]:
            hint = "give one of them another name:"
            raise ConfigError(f"two tasks are called {task.name!r}", hint=hint, at=spec.at)
        tasks.append(task)
    return tasks
