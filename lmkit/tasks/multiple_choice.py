"""multiple_choice: one's own questions with choices, a line of JSON each.

{"question": "Which is a fruit?", "choices": ["stone", "pear", "river"], "answer": 1}
{"question": "Which is a fruit?", "choices": ["stone", "pear", "river"], "answer": "B"}
{"question": "Which is a fruit?", "choices": ["stone", "pear", "river"], "answer": "pear"}
"""

from __future__ import annotations

from typing import Any, Literal

from lmkit.errors import ConfigError, DataError, did_you_mean
from lmkit.evals.task import Problem
from lmkit.prompts import Completion, Message
from lmkit.tasks.jsonl import JsonlTask, entry
from lmkit.tasks.letters import LETTERS, letter_problem


class MultipleChoice(JsonlTask):
    """Questions with `choices`, of which `answer` is right: its place from 0, its text or its
    letter; what is both a text and a letter is a text. Other keys are left alone.

    Args:
        kind: `letters`: the choices are shown with letters, and a letter is the answer. `choice`:
            the question alone is shown, and the likeliest text of all choices is the answer.

    Raises:
        ConfigError: `kind` is neither of the two.
    """

    name = "multiple_choice"

    def __init__(
        self,
        path: str | list[str],
        test: str | list[str] | None = None,
        *,
        kind: Literal["letters", "choice"] = "letters",
        holdout: float = 0.05,
        on_error: Literal["raise", "skip"] = "raise",
        name: str | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__(path, test, holdout=holdout, on_error=on_error, name=name, folder=folder)
        if kind not in ("letters", "choice"):
            raise ConfigError(f"kind is {kind!r}", hint="it is letters or choice", key="kind")
        self.kind = kind

    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def problem(self, row: Any, at: str) -> Problem:
        question, choices = entry(row, "question", at), entry(row, "choices", at)
        if not isinstance(question, str) or not question.strip():
            raise DataError(f"'question' is {question!r}", hint="write a text", at=at)
        if not _are_texts(choices):
            hint = 'write two or more different texts, such as ["stone", "pear"]'
            raise DataError(f"'choices' is {choices!r}", hint=hint, at=at)
        correct = _correct(entry(row, "answer", at), choices, at)
        problem = letter_problem(question, choices, correct, at)
        if self.kind == "letters":
            return problem
        return Problem(
            messages=(Message("user", question),),
            solution=Message("assistant", choices[correct]),
            answer=choices[correct],
            choices=tuple(choices),
            correct=correct,
            at=at,
        )

    def score(self, problem: Problem, completion: Completion) -> float:
        """Of what a model writes instead of choosing, as a reward: 1 if it is the answer and no
        more, but for upper case, white space and a full stop; else 0.
        """
        said, wanted = (
            text.strip().removesuffix(".").casefold() for text in (completion.text, problem.answer)
        )
        return float(said == wanted)


def _are_texts(choices: Any) -> bool:
    if not isinstance(choices, list):
        return False
    texts = [choice for choice in choices if isinstance(choice, str) and choice.strip()]
    return len(texts) == len(choices) == len(set(texts)) > 1


def _correct(answer: Any, choices: list[str], at: str) -> int:
    """Which of the choices is meant."""
    if isinstance(answer, str):
        if answer in choices:
            return choices.index(answer)
        place = LETTERS.find(answer.strip().upper()) if len(answer.strip()) == 1 else -1
    else:
        place = answer if isinstance(answer, int) and not isinstance(answer, bool) else -1
    if 0 <= place < len(choices):
        return place
    last = len(choices) - 1
    hint = did_you_mean(answer, choices) or (
        f"write a place 0 ... {last}, a letter A ... {LETTERS[min(last, 25)]}, or a choice's text"
    )
    raise DataError(f"'answer' is {answer!r}, none of the {len(choices)} choices", hint=hint, at=at)
