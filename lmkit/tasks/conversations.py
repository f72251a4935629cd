"""conversations: one's own, a line of JSON each, to learn from and to be asked.

{"messages": [{"role": "user", "content": "Who is it?"}, {"role": "assistant", "content": "Me."}]}
[{"role": "user", "content": "Who is it?"}, {"role": "assistant", "content": "Me."}]
{"prompt": "What is 6 times 7?", "truth": "6 times 7 is 42.", "answer": "42"}
"""

from __future__ import annotations

from typing import Any, Literal

from lmkit.errors import ConfigError, DataError
from lmkit.evals.task import Problem
from lmkit.prompts import Completion, Message, Prompt
from lmkit.tasks.arithmetic import last_number
from lmkit.tasks.jsonl import JsonlTask, entry
from lmkit.text.chat import check_conversation


class Conversations(JsonlTask):
    """Conversations that end with the assistant; its last turn is the solution.

    A line is an object with `messages`, or the list of messages alone, or `prompt` and `truth`.
    An `answer` beside them, a text or a number, is what `match` looks for instead of the whole
    last turn. Other keys are left alone.

    Args:
        match: when an answer is right: `exact`: it is the same text, but for upper case and white
            space; `contains`: the answer occurs in it; `number`: its last number is the answer's.
        max_new_tokens: enough for an answer.

    Raises:
        ConfigError: `match` is none of the three.
    """

    name = "conversations"

    def __init__(
        self,
        path: str | list[str],
        test: str | list[str] | None = None,
        *,
        match: Literal["exact", "contains", "number"] = "exact",
        max_new_tokens: int = 256,
        holdout: float = 0.05,
        on_error: Literal["raise", "skip"] = "raise",
        name: str | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__(path, test, holdout=holdout, on_error=on_error, name=name, folder=folder)
        if match not in ("exact", "contains", "number"):
            hint = "it is exact, contains or number"
            raise ConfigError(f"match is {match!r}", hint=hint, key="match")
        self.match = match
        self.max_new_tokens = max_new_tokens

    def settings(self) -> dict[str, Any]:
        return {"match": self.match}

    def problem(self, row: Any, at: str) -> Problem:
        messages = _messages(row, at)
        check_conversation(messages, at)
        *asked, solution = messages
        if solution.role != "assistant" or not asked:
            hint = "end it with a turn of the assistant"
            raise DataError("the conversation has no answer", hint=hint, at=at)
        answer = row.get("answer") if isinstance(row, dict) else None
        if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
            raise DataError(f"'answer' is {answer!r}", hint="write a text or a number", at=at)
        told = solution.text if answer is None else str(answer)
        if not told.strip() or (self.match == "number" and last_number(told) is None):
            hint = f"write the text that match: {self.match} looks for"
            raise DataError(f"the answer is {told!r}", hint=hint, at=at)
        return Problem(messages=tuple(asked), solution=solution, answer=told, at=at)

    def score(self, problem: Problem, completion: Completion) -> float:
        """1 or 0, as `match` has it."""
        if self.match == "number":
            return float(last_number(completion.text) == last_number(problem.answer))
        said, wanted = normal(completion.text), normal(problem.answer)
        return float(said == wanted if self.match == "exact" else wanted in said)


def normal(text: str) -> str:
    """The text in small letters, with single spaces between its words."""
    return " ".join(text.split()).casefold()


def _messages(row: Any, at: str) -> tuple[Message, ...]:
    if isinstance(row, list):
        return Prompt.of({"messages": row}, at).messages
    if isinstance(row, dict) and "prompt" in row:
        fields = {"prompt": row["prompt"], "truth": entry(row, "truth", at)}
        sample = Prompt.of(fields, at)
        return Message("user", sample.prompt), Message("assistant", sample.truth or "")
    return Prompt.of({"messages": entry(row, "messages", at)}, at).messages
