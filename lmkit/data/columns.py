"""columns: which column of a table is which part of a prompt; opens no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lmkit.errors import DataError, did_you_mean
from lmkit.prompts import Message, Prompt
from lmkit.text.chat import check_conversation


@dataclass(frozen=True)
class Columns:
    """Which column of a table is which part of a prompt; none named: those of the same names."""

    text: str | None = None
    prompt: str | None = None
    truth: str | None = None
    messages: str | None = None
    chosen: str | None = None
    rejected: str | None = None

    def settings(self) -> dict[str, str | None]:
        """What decides which documents there are."""
        later = ("chosen", "rejected")  # the fingerprints of before there were any still hold
        about = asdict(self)
        return {part: name for part, name in about.items() if name is not None or part not in later}

    def prompt_of(self, row: Mapping[str, Any], at: str) -> Prompt:
        """The row as a Prompt; columns that are not asked for are left alone.

        Raises:
            DataError: a column is missing or of the wrong type, or turns are in a wrong order.
        """
        named = {part: column for part, column in asdict(self).items() if column is not None}
        parts = named or {part: part for part in asdict(self) if part in row}
        for column in parts.values():
            if column not in row:
                hint = did_you_mean(column, row) or f"it has {', '.join(map(repr, row))}"
                raise DataError(f"there is no column {column!r}", hint=hint, at=at)
        if not parts:
            raise DataError(
                f"no column is a prompt: {', '.join(map(repr, row))}",
                hint="say which is which, such as prompt: question, truth: answer; or text: body",
                at=at,
            )
        prompt = Prompt.of({part: row[column] for part, column in parts.items()}, at=at)
        if prompt.messages:
            # of a preference the messages lead up to the turn that it is about
            answer = [] if prompt.chosen is None else [Message("assistant", prompt.chosen)]
            check_conversation((*prompt.messages, *answer), at)
        return prompt
