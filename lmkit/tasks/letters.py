"""letters: a question with its choices, each with a letter; the answer is the letter alone."""

from __future__ import annotations

from collections.abc import Sequence

from lmkit.errors import DataError
from lmkit.evals.task import Problem
from lmkit.prompts import Message

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def letter_problem(question: str, choices: Sequence[str], correct: int, at: str) -> Problem:
    """The problem of a task whose kind is `letters`.

    The letter stands behind its choice, and without a space: a small model learns which choice it
    belongs to, as it has read it, and the letter is the token that the answer will be (nanochat).

    Args:
        correct: which of the choices is right.

    Raises:
        DataError: fewer than 2 choices, more than there are letters, or none of them is right.
    """
    if not 2 <= len(choices) <= len(LETTERS):
        hint = f"it needs 2 to {len(LETTERS)}"
        raise DataError(f"a question with {len(choices)} choices", hint=hint, at=at)
    if not 0 <= correct < len(choices):
        raise DataError(f"choice {correct} is right, of {len(choices)}", hint="count from 0", at=at)
    letters = tuple(LETTERS[: len(choices)])
    offered = "".join(f"- {text}={letter}\n" for text, letter in zip(choices, letters, strict=True))
    return Problem(
        messages=(Message("user", f"{question}\n{offered}\nAnswer with one letter."),),
        solution=Message("assistant", letters[correct]),
        answer=letters[correct],
        choices=letters,
        correct=correct,
        at=at,
    )
