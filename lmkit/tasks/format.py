"""format: an answer in the form that was asked for: JSON, a list, or one word."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import chain
from string import ascii_lowercase
from typing import Any

from lmkit.errors import ConfigError
from lmkit.evals.task import Problem
from lmkit.prompts import Completion, Message
from lmkit.tasks.generated import Draw, Generated, check_names, most_tokens
from lmkit.tasks.words import read_words

KEYS = ("name", "colour", "city", "animal", "age", "count", "year", "price")
NUMBERS = KEYS[4:]  # those whose value is a number


class Format(Generated):
    """Things to put in a given form: a JSON object with given keys, a list of given items, a yes
    or a no. What to say is in the question; to be learned is how.

    Args:
        kinds: `json`, `list` (dashes), `numbered` and `yes_no`, each as often as it is named.
        length: the most keys or items.
        words: a file with a word a line; default a list of common words in the package.
        folder: the YAML's folder.

    Raises:
        ConfigError: a kind is none of the four, or the length is not 1 ... 8.
        DataError: the file of words is missing, empty, or has something else in it.
    """

    name = "format"

    def __init__(
        self,
        kinds: Sequence[str] = ("json", "list", "numbered", "yes_no"),
        *,
        length: int = 4,
        words: str | None = None,
        train: int = 20_000,
        validation: int = 500,
        seed: int = 0,
        name: str | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__(train=train, validation=validation, seed=seed, name=name)
        self.kinds = check_names(kinds, KINDS, "kinds")
        self.words = read_words(words, folder)
        most = min(len(KEYS), len(self.words))
        if not 1 <= length <= most:
            hint = f"an answer has 1 to {most} parts"
            raise ConfigError(f"length is {length}", hint=hint, key="length")
        self.length = length
        longest = sorted(self.words, key=lambda word: -len(word.encode()))[:length]
        values = json.dumps(dict(zip(KEYS, longest, strict=False)), ensure_ascii=False)
        self.max_new_tokens = most_tokens([Message("assistant", values)])

    def settings(self) -> dict[str, Any]:
        return {"kinds": list(self.kinds), "length": self.length, "words": str(self.words)}

    def content(self, draw: Draw) -> tuple[str | int, ...]:
        kind = draw.choice(self.kinds)
        count = 1 if kind == "yes_no" else 1 + draw.below(self.length)
        words = draw.sample(self.words, count)
        if kind != "json":
            return (kind, *words)
        pairs = zip(sorted(draw.sample(KEYS, count)), words, strict=True)
        told = ((key, draw.below(100) if key in NUMBERS else word) for key, word in pairs)
        return (kind, *chain.from_iterable(told))

    def problem(self, content: tuple[Any, ...], draw: Draw) -> Problem:
        kind, *parts = content
        question, answer = KINDS[kind](parts, draw)
        return Problem(
            messages=(Message("user", question),),
            solution=Message("assistant", answer),
            answer=answer,
        )

    def score(self, problem: Problem, completion: Completion) -> float:
        """1 or 0. The whole answer must be JSON with the same keys and values, in any order; or
        the same lines; or the one word, with or without capitals and full stop.
        """
        text = completion.text
        if problem.answer.startswith("{"):
            return float(_same_json(text, problem.answer))
        if problem.answer in ("yes", "no"):
            return float(text.strip().removesuffix(".").casefold() == problem.answer)
        lines = [line.strip() for line in text.strip().splitlines()]
        return float(lines == problem.answer.splitlines())


def _json(parts: list[Any], draw: Draw) -> tuple[str, str]:
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    values = dict(draw.sample(pairs, len(pairs)))
    told = ", ".join(f"{key} is {value}" for key, value in values.items())
    return f"Write as a JSON object: {told}.", json.dumps(values, ensure_ascii=False)


def _list(words: list[str], draw: Draw) -> tuple[str, str]:
    question = f"List these, one a line, each after a dash: {', '.join(words)}."
    return question, "\n".join(f"- {word}" for word in words)


def _numbered(words: list[str], draw: Draw) -> tuple[str, str]:
    question = f"Number these from 1, one a line: {', '.join(words)}."
    return question, "\n".join(f"{number}. {word}" for number, word in enumerate(words, start=1))


def _yes_no(words: list[str], draw: Draw) -> tuple[str, str]:
    (word,) = words
    right = draw.below(2) == 1
    others = [letter for letter in ascii_lowercase if letter != word[0]]
    letter = word[0] if right else draw.choice(others)
    question = f"Does {word} begin with {letter}? Answer with yes or no."
    return question, "yes" if right else "no"


KINDS: dict[str, Callable[[list[Any], Draw], tuple[str, str]]] = {
    "json": _json,
    "list": _list,
    "numbered": _numbered,
    "yes_no": _yes_no,
}


def _same_json(text: str, wanted: str) -> bool:
    try:
        found = json.loads(text)
        return json.dumps(found, sort_keys=True) == json.dumps(json.loads(wanted), sort_keys=True)
    except (ValueError, RecursionError):
        return False
