"""spelling: the letters of a word, and how often one stands in it; tokens do not show them.

    user       How many times does the letter r occur in berry?
    assistant  b, e, r (1), r (2), y
               <python> 'berry'.count('r') <output> 2 </output> The count is 2.

After nanochat's SimpleSpelling and SpellingBee.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any, Literal

from lmkit.evals.task import Problem
from lmkit.prompts import Completion, Message, Part
from lmkit.tasks.arithmetic import last_number
from lmkit.tasks.generated import Draw, Generated, check_names, most_tokens
from lmkit.tasks.words import read_words

WORDINGS = {
    "spell": (
        "Spell the word {word}.",
        "How do you spell {word}?",
        "Spell {word}, letter by letter.",
        "Which letters is the word {word} made of?",
    ),
    "count": (
        "How many times does the letter {letter} occur in {word}?",
        "How often is there a letter {letter} in the word {word}?",
        "Count the letter {letter} in {word}.",
        "How many {letter} are in {word}?",
    ),
}


class Spelling(Generated):
    """Words to spell, and letters to count in them. A word is asked about in one split only.

    Args:
        kinds: `spell` and `count`, each as often as it is named.
        tools: letters are counted by the calculator as well; `mixed`: in half of the solutions.
        steps: before a count the letters are gone through one by one.
        words: a file with a word a line; default a list of common words in the package.
        folder: the YAML's folder.

    Raises:
        ConfigError: a kind is neither of the two.
        DataError: the file of words is missing, empty, or has something else in it.
    """

    name = "spelling"

    def __init__(
        self,
        kinds: Sequence[str] = ("spell", "count"),
        *,
        tools: bool | Literal["mixed"] = True,
        steps: bool = True,
        words: str | None = None,
        train: int = 20_000,
        validation: int = 500,
        seed: int = 0,
        name: str | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__(train=train, validation=validation, seed=seed, name=name)
        self.kinds = check_names(kinds, WORDINGS, "kinds")
        self.tools = tools
        self.steps = steps
        self.words = read_words(words, folder)
        longest = max(self.words, key=lambda word: len(word.encode()))
        self.max_new_tokens = most_tokens([self._counted(longest, longest[0], True)])

    def settings(self) -> dict[str, Any]:
        return {
            "kinds": list(self.kinds),
            "tools": self.tools,
            "steps": self.steps,
            "words": str(self.words),
        }

    def content(self, draw: Draw) -> tuple[str]:
        return (draw.choice(self.words),)

    def problem(self, content: tuple[str], draw: Draw) -> Problem:
        (word,) = content
        kind = draw.choice(self.kinds)
        letter = draw.choice(word if draw.below(4) else ascii_lowercase)
        question = draw.choice(WORDINGS[kind]).format(word=word, letter=letter)
        if kind == "spell":
            answer = "-".join(word)
            solution = Message("assistant", answer)
        else:
            tools = bool(draw.below(2)) if self.tools == "mixed" else self.tools
            answer = str(word.count(letter))
            solution = self._counted(word, letter, tools)
        return Problem(messages=(Message("user", question),), solution=solution, answer=answer)

    def score(self, problem: Problem, completion: Completion) -> float:
        """1 or 0. Spelled: what stands after the last colon is the right letters, upper or lower
        case, between them `-`, `,` or white space. Counted: the last number is the right one.
        """
        text = completion.text
        if problem.answer.isdecimal():
            return float(last_number(text) == int(problem.answer))
        letters = re.split(r"[-,\s]+", text.rpartition(":")[2].strip().rstrip("."))
        return float("-".join(letters).casefold() == problem.answer.casefold())

    def _counted(self, word: str, letter: str, tools: bool) -> Message:
        count = word.count(letter)
        parts = [Part("text", f"{letter_by_letter(word, letter)}\n")] if self.steps else []
        if tools:
            parts.append(Part("python", f"'{word}'.count('{letter}')"))
            parts.append(Part("python_output", str(count)))
        parts.append(Part("text", f"The count is {count}."))
        return Message("assistant", tuple(parts))


def letter_by_letter(word: str, letter: str) -> str:
    """The letters of a word, and the count so far behind each that is counted: `b, e, r (1)`."""
    count = 0
    told = []
    for each in word:
        count += each == letter
        told.append(f"{each} ({count})" if each == letter else each)
    return ", ".join(told)
