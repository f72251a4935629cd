"""core_forms: an item of the CORE benchmark as texts, and what is judged of them; runs no model.

There are three forms. In each the item comes after solved ones (the shots), an empty line between
them. How the texts are put together, to the space, is nanochat's (core_eval.py), which follows
DCLM (Li et al., arXiv 2406.11794) and through it MosaicML's evaluation gauntlet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lmkit.errors import DataError, did_you_mean
from lmkit.evals.spans import Judged, Span
from lmkit.text.tokenizer import Tokenizer

Row = dict[str, Any]


class Form(ABC):
    """How items of a kind are asked.

    Args:
        delimiter: stands between a question and its answer.
    """

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter

    @abstractmethod
    def check(self, row: Row, at: str) -> None:
        """Raises DataError if the row is none of this form; names `at`."""

    @abstractmethod
    def solved(self, row: Row) -> str:
        """The item with its right answer, to be shown before another."""

    @abstractmethod
    def asked(self, row: Row) -> list[str]:
        """What is to be read about the item."""

    @abstractmethod
    def judged(self, rows: list[list[int]]) -> list[Span]:
        """The ids of those texts, and where what is judged of them begins."""

    @abstractmethod
    def is_right(self, row: Row, found: Sequence[Judged]) -> bool:
        """Whether the model has solved the item, from what came of the spans."""

    def spans(
        self, tokenizer: Tokenizer, items: Sequence[tuple[Row, Sequence[Row]]]
    ) -> list[list[Span]]:
        """Of each (item, its shots) the spans to judge."""
        texts = []
        for row, shots in items:
            before = "".join(f"{self.solved(shot)}\n\n" for shot in shots)
            texts.append([before + text for text in self.asked(row)])
        flat = tokenizer.encode_batch([text for several in texts for text in several])
        ids = iter(flat)
        return [self.judged([[tokenizer.bos, *next(ids)] for _ in several]) for several in texts]


class MultipleChoice(Form):
    """`{query, choices, gold}`: one question, several answers; the likeliest token by token."""

    def check(self, row: Row, at: str) -> None:
        _text(row, "query", at)
        _choice(row, "choices", at)

    def solved(self, row: Row) -> str:
        return f"{row['query']}{self.delimiter}{row['choices'][row['gold']]}"

    def asked(self, row: Row) -> list[str]:
        return [f"{row['query']}{self.delimiter}{choice}" for choice in row["choices"]]

    def judged(self, rows: list[list[int]]) -> list[Span]:
        """What is not common to all of them from the left, one token at least."""
        common = _common(rows)
        return [Span(tuple(ids), max(1, min(common, len(ids) - 1))) for ids in rows]

    def is_right(self, row: Row, found: Sequence[Judged]) -> bool:
        losses = [each.loss for each in found]
        return losses.index(min(losses)) == row["gold"]  # of equal ones the first


class Schema(MultipleChoice):
    """`{context_options, continuation, gold}`: several beginnings of one end, as in Winograd."""

    def check(self, row: Row, at: str) -> None:
        _text(row, "continuation", at)
        _choice(row, "context_options", at)

    def solved(self, row: Row) -> str:
        return f"{row['context_options'][row['gold']]}{self.delimiter}{row['continuation']}"

    def asked(self, row: Row) -> list[str]:
        options = row["context_options"]
        return [f"{option}{self.delimiter}{row['continuation']}" for option in options]

    def judged(self, rows: list[list[int]]) -> list[Span]:
        """What is common to all of them from the right, one token at least."""
        common = max(1, _common([ids[::-1] for ids in rows]))
        return [Span(tuple(ids), max(1, len(ids) - common)) for ids in rows]


class LanguageModeling(Form):
    """`{context, continuation}`: the model must say the continuation to the token."""

    def check(self, row: Row, at: str) -> None:
        _text(row, "context", at)
        if not _text(row, "continuation", at):
            raise DataError("the continuation is empty", at=at)

    def solved(self, row: Row) -> str:
        return f"{row['context'].strip()}{self.delimiter}{row['continuation']}"

    def asked(self, row: Row) -> list[str]:
        """Without the continuation and with it. White space at the end of the first belongs to the
        next token: vocabularies hold ` Paris`, and a space before it would be another text."""
        before = f"{row['context'].strip()}{self.delimiter}"
        return [before.rstrip(), f"{before}{row['continuation']}"]

    def judged(self, rows: list[list[int]]) -> list[Span]:
        without, whole = rows
        start = min(_common([without, whole]), len(whole) - 1)
        return [Span(tuple(whole), max(1, start))]

    def is_right(self, row: Row, found: Sequence[Judged]) -> bool:
        return found[0].exact


FORMS: dict[str, type[Form]] = {
    "multiple_choice": MultipleChoice,
    "schema": Schema,
    "language_modeling": LanguageModeling,
}


def form_of(name: object, delimiter: str, at: object) -> Form:
    """The form of that name.

    Raises:
        DataError: there is none.
    """
    if name not in FORMS:
        hint = did_you_mean(name, FORMS) or f"there are {', '.join(FORMS)}"
        raise DataError(f"there is no icl_task_type {name!r}", hint=hint, at=at)
    return FORMS[str(name)](delimiter)


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all of them begin with."""
    places = zip(*rows, strict=False)
    return next((n for n, ids in enumerate(places) if len(set(ids)) > 1), min(map(len, rows)))


def _text(row: Row, key: str, at: str) -> str:
    value = _value(row, key, at)
    if not isinstance(value, str):
        raise DataError(f"{key!r} is no text: {value!r}", at=at)
    return value


def _choice(row: Row, key: str, at: str) -> None:
    choices, gold = _value(row, key, at), _value(row, "gold", at)
    if not isinstance(choices, list) or len(choices) < 2:
        raise DataError(f"{key!r} is no list of two or more", at=at)
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise DataError(f"'gold' is {gold!r}", hint=f"it is 0 to {len(choices) - 1}", at=at)


def _value(row: Row, key: str, at: str) -> Any:
    if key not in row:
        hint = did_you_mean(key, row) or f"it has {', '.join(map(repr, row))}"
        raise DataError(f"an item has no {key!r}", hint=hint, at=at)
    return row[key]
