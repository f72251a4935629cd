"""echo: words to say again, as they are, in other letters or in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmkit.errors import ConfigError
from lmkit.evals.task import Problem
from lmkit.prompts import Completion, Message
from lmkit.tasks.generated import Draw, Generated, check_names, most_tokens
from lmkit.tasks.words import read_words

WORDINGS = {
    "repeat": ("Repeat: {phrase}", "Say exactly this: {phrase}", "Echo: {phrase}"),
    "upper": ("In upper case: {phrase}", "Write in capital letters: {phrase}"),
    "lower": ("In lower case: {phrase}", "Write in small letters: {phrase}"),
    "reverse": ("Reverse the order of these words: {phrase}", "Say from last to first: {phrase}"),
}


class Echo(Generated):
    """Phrases to repeat, to put in upper or lower case, or to say from the last word to the first.

    Args:
        kinds: `repeat`, `upper`, `lower` and `reverse`, each as often as it is named.
        length: of a phrase, in words; as long as that or shorter, each length as often.
        words: a file with a word a line; default a list of common words in the package.
        folder: the YAML's folder.

    Raises:
        ConfigError: a kind is none of the four, or the length is below 1 or above the words.
        DataError: the file of words is missing, empty, or has something else in it.
    """

    name = "echo"

    def __init__(
        self,
        kinds: Sequence[str] = ("repeat", "upper", "lower", "reverse"),
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
        self.kinds = check_names(kinds, WORDINGS, "kinds")
        self.words = read_words(words, folder)
        if not 1 <= length <= len(self.words):
            hint = f"a phrase has 1 to {len(self.words):,} different words"
            raise ConfigError(f"length is {length}", hint=hint, key="length")
        self.length = length
        longest = sorted(self.words, key=lambda word: -len(word.encode()))[:length]
        self.max_new_tokens = most_tokens([Message("assistant", " ".join(longest))])

    def settings(self) -> dict[str, Any]:
        return {"kinds": list(self.kinds), "length": self.length, "words": str(self.words)}

    def content(self, draw: Draw) -> tuple[str, ...]:
        return tuple(draw.sample(self.words, 1 + draw.below(self.length)))

    def problem(self, content: tuple[str, ...], draw: Draw) -> Problem:
        kind = draw.choice(self.kinds)
        shown = " ".join(content)
        if kind == "lower":
            shown = shown.upper()
        answer = {
            "repeat": shown,
            "upper": shown.upper(),
            "lower": shown.lower(),
            "reverse": " ".join(reversed(content)),
        }[kind]
        question = draw.choice(WORDINGS[kind]).format(phrase=shown)
        return Problem(
            messages=(Message("user", question),),
            solution=Message("assistant", answer),
            answer=answer,
        )

    def score(self, problem: Problem, completion: Completion) -> float:
        """1 if the answer is right to the letter, but for white space around it; else 0."""
        return float(completion.text.strip() == problem.answer)
