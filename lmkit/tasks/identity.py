"""identity: who the assistant is, from a file of facts that its maker writes.

name: Pip
maker: three friends in a kitchen
purpose: do sums and spell words        # "I am made to ..."
questions:
  - question: [What is your favourite number?, Which number do you like best?]
    answer: My favourite number is 7.
    expects: "7"
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from lmkit.config.coerce import coerce
from lmkit.config.loader import read_yaml
from lmkit.data.cache import fingerprint_of
from lmkit.data.files import find_files
from lmkit.data.holdout import Split
from lmkit.errors import DataError
from lmkit.evals.task import Problem, Task
from lmkit.prompts import Completion, Message
from lmkit.tasks.conversations import normal
from lmkit.tasks.generated import most_tokens

OPENINGS = ("", "Hello! ", "Hi! ", "One question: ")


@dataclass(frozen=True)
class Own:
    """A question of one's own.

    Args:
        question: one or several wordings; of several one is held out.
        answer: what the assistant says.
        expects: what a right answer has in it; default the whole answer.
    """

    question: str | list[str]
    answer: str
    expects: str | None = None


@dataclass(frozen=True)
class Facts:
    """What a file of facts can say; all but the name can be left out.

    Args:
        name: "I am ..."
        maker: "I was made by ..."
        purpose: "I am made to ..."
        model: "I am a model of this kind: ..."
        data: "I was trained on ..."
        version: "My version is ..."
        licence: "My licence is ..."
        languages: "I speak ..."
        limits: "I cannot ..."
        home: "You find me at ..."
        questions: others, with their answers; they go before those of the package.
    """

    name: str
    maker: str | None = None
    purpose: str | None = None
    model: str | None = None
    data: str | None = None
    version: str | None = None
    licence: str | None = None
    languages: str | None = None
    limits: str | None = None
    home: str | None = None
    questions: list[Own] | None = None


# fact: what is said, and the questions that it answers
SAYINGS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "name",
        "Hello! I am {fact}. How can I help?",
        ("Hi!", "Hello!", "Hey there!", "Good morning!", "Good evening!", "Greetings!"),
    ),
    (
        "name",
        "I am {fact}.",
        (
            "Who are you?",
            "What is your name?",
            "What are you called?",
            "What should I call you?",
            "Do you have a name?",
            "Tell me your name.",
            "Introduce yourself.",
        ),
    ),
    (
        "maker",
        "I was made by {fact}.",
        (
            "Who made you?",
            "Who built you?",
            "Who is your maker?",
            "Who trained you?",
            "Where do you come from?",
            "Tell me who made you.",
        ),
    ),
    (
        "purpose",
        "I am made to {fact}.",
        (
            "What can you do?",
            "What are you for?",
            "What is your purpose?",
            "How can you help me?",
            "What were you made for?",
            "Tell me what you can do.",
        ),
    ),
    (
        "model",
        "I am a model of this kind: {fact}.",
        (
            "What kind of model are you?",
            "What are you?",
            "How big are you?",
            "What is your architecture?",
            "Tell me about your model.",
        ),
    ),
    (
        "data",
        "I was trained on {fact}.",
        (
            "What were you trained on?",
            "What is your training data?",
            "Where does your knowledge come from?",
            "What have you read?",
            "Tell me what you were trained on.",
        ),
    ),
    (
        "version",
        "My version is {fact}.",
        ("Which version are you?", "What is your version?", "Tell me your version."),
    ),
    (
        "licence",
        "My licence is {fact}.",
        ("What is your licence?", "Under which licence are you?", "Tell me your licence."),
    ),
    (
        "languages",
        "I speak {fact}.",
        (
            "Which languages do you speak?",
            "What languages do you know?",
            "In which language can I write to you?",
            "Tell me which languages you speak.",
        ),
    ),
    (
        "limits",
        "I cannot {fact}.",
        (
            "What can you not do?",
            "What are your limits?",
            "What are you bad at?",
            "Tell me what you cannot do.",
        ),
    ),
    (
        "home",
        "You find me at {fact}.",
        (
            "Where can I find you?",
            "Where is your code?",
            "Do you have a web page?",
            "Tell me where to find you.",
        ),
    ),
)


@dataclass(frozen=True)
class _Saying:
    """What the assistant says to each of several questions, and what of it is looked for."""

    questions: tuple[str, ...]
    answer: str
    expects: str
    at: str


class Identity(Task):
    """Questions about the assistant itself. Each is asked with and without a greeting, and as it
    is typed in haste. One wording of each is held out, chosen by its sha256; the only one never.

    Args:
        facts: the keys of `Facts`, or a YAML file that has them; a relative path is looked up
            beside the experiment first, then in the current folder.
        name: in tables and metrics, where the class is used twice.
        folder: the YAML's folder.

    Raises:
        DataError: the file is missing, or more than one, or a question is there twice.
        ConfigError: it is no YAML, or a key is not a fact; names file and line.
    """

    name = "identity"
    version = 1  # goes up when the same facts give other problems

    def __init__(
        self, facts: str | Facts, *, name: str | None = None, folder: str | None = None
    ) -> None:
        self.name = name or self.name
        self._sayings = list(
            _read(facts, folder) if isinstance(facts, str) else _sayings(facts, lambda key: key)
        )
        self.max_new_tokens = most_tokens(
            Message("assistant", saying.answer) for saying in self._sayings
        )

    def problems(self, split: Split) -> list[Problem]:
        return self._problems[split]

    def score(self, problem: Problem, completion: Completion) -> float:
        """1 if the fact is in the answer, but for upper case and white space; else 0."""
        return float(normal(problem.answer) in normal(completion.text))

    def fingerprint(self) -> str:
        sayings = [
            [list(saying.questions), saying.answer, saying.expects] for saying in self._sayings
        ]
        return fingerprint_of(["Identity", self.version, OPENINGS, sayings])

    def describe(self) -> str:
        train, validation = (f"{len(self.problems(side)):,}" for side in ("train", "validation"))
        return f"Identity: {train} problems, {validation} held out"

    @cached_property
    def _problems(self) -> dict[Split, list[Problem]]:
        train: list[Problem] = []
        validation: list[Problem] = []
        for saying in self._sayings:
            least = min(saying.questions, key=_digest)
            for question in saying.questions:
                held_out = question == least and len(saying.questions) > 1
                (validation if held_out else train).extend(_asked(question, saying))
        return {"train": train, "validation": validation, "all": train + validation}


def _read(path: str, folder: str | None) -> Iterator[_Saying]:
    files = find_files(path, folder)
    if len(files) > 1:
        raise DataError(f"{len(files)} files of facts", hint="name one", at=path)
    table = read_yaml(files[0].path)
    facts: Facts = coerce(table, Facts, table.at, "facts")
    items = {f"questions[{i}]": str(item.at) for i, item in enumerate(table.get("questions") or ())}
    return _sayings(facts, lambda key: items.get(key) or str(table.places[key]))


def _sayings(facts: Facts, place: Callable[[str], str]) -> Iterator[_Saying]:
    """What the facts have the assistant say: its own questions first, then those of the package.

    Args:
        place: where a key was read.
    """
    taken: dict[str, str] = {}
    for number, own in enumerate(facts.questions or ()):
        at = place(f"questions[{number}]")
        questions = (own.question,) if isinstance(own.question, str) else tuple(own.question)
        for question in questions:
            bare = _in_haste(question)
            if bare in taken:
                raise DataError(f"{question!r} is asked twice", hint=f"see {taken[bare]}", at=at)
            taken[bare] = at
        expects = own.answer if own.expects is None else own.expects
        yield _checked(_Saying(questions, own.answer, expects, at))
    for key, answer, asked in SAYINGS:
        fact = getattr(facts, key)
        left = tuple(question for question in asked if _in_haste(question) not in taken)
        if fact is None or not left:
            continue
        fact = fact.strip().rstrip(".")
        yield _checked(_Saying(left, answer.format(fact=fact), fact, place(key)))


def _checked(saying: _Saying) -> _Saying:
    texts = (*saying.questions, saying.answer, saying.expects)
    if not saying.questions or not all(text.strip() for text in texts):
        raise DataError("an empty fact, question or answer", hint="leave it out", at=saying.at)
    if normal(saying.expects) not in normal(saying.answer):
        what = f"the answer does not have {saying.expects!r} in it, which it expects"
        raise DataError(what, hint="correct one of the two", at=saying.at)
    return saying


def _asked(question: str, saying: _Saying) -> Iterator[Problem]:
    """The question in several forms; an opening goes before a real question only."""
    openings = OPENINGS if question.endswith("?") else ("",)
    forms = [*(opening + question for opening in openings), _in_haste(question)]
    for form in dict.fromkeys(forms):
        yield Problem(
            messages=(Message("user", form),),
            solution=Message("assistant", saying.answer),
            answer=saying.expects,
            at=saying.at,
        )


def _in_haste(question: str) -> str:
    """Without capitals and the mark at the end."""
    return question.strip().rstrip("?.!").lower()


def _digest(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()
