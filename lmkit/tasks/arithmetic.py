"""arithmetic: two numbers and what they come to, with the calculator or by heart.

A problem with `tools`, `wordings: [short]`:

    user       What is 23 + 45?
    assistant  <python> 23 + 45 <output> 68 </output> 23 + 45 = 68
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Literal

from lmkit.errors import ConfigError
from lmkit.evals.task import Problem
from lmkit.prompts import Completion, Message, Part
from lmkit.tasks.generated import Draw, Generated, check_names, most_tokens

APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}
MAX_DIGITS = 9
WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "short": {
        symbol: (
            f"What is {{a}} {symbol} {{b}}?",
            f"Calculate {{a}} {symbol} {{b}}.",
            f"How much is {{a}} {symbol} {{b}}?",
            f"{{a}} {symbol} {{b}} = ?",
        )
        for symbol in APPLY
    },
    "spoken": {
        "+": ("What is {a} plus {b}?", "Add {a} and {b}.", "What is the sum of {a} and {b}?"),
        "-": (
            "What is {a} minus {b}?",
            "Subtract {b} from {a}.",
            "What is left of {a} after {b} is taken away?",
        ),
        "*": (
            "What is {a} times {b}?",
            "Multiply {a} by {b}.",
            "What is the product of {a} and {b}?",
        ),
    },
    "story": {  # in units without a plural, so that 1 reads well
        "+": (
            "{name} walks {a} km and then another {b} km. How many km is that in all?",
            "One sack weighs {a} kg, another {b} kg. What do they weigh together, in kg?",
            "A plant is {a} cm tall and grows by {b} cm. How tall is it then, in cm?",
        ),
        "-": (
            "A rope is {a} cm long. {name} cuts off {b} cm. How many cm are left?",
            "A sack holds {a} kg of rice. {name} takes out {b} kg. How many kg are left?",
            "{name} wants to walk {a} km and has walked {b} km. How many km are left?",
        ),
        "*": (
            "A sack weighs {a} kg. What is the weight of {b} of them, in kg?",
            "A field is {a} m wide and {b} m long. What is its area in square metres?",
            "{name} cuts a rope into {a} pieces of {b} cm. How long was it, in cm?",
        ),
    },
}
NAMES = ("Mia", "Tom", "Ada", "Ben", "Lea", "Omar", "Yuki", "Zoë")
_NUMBER = re.compile(
    r"(?P<sign>(?<![0-9)])[-\u2212])?"  # behind a number a minus is no sign: 10-3
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+|(?=\.[0-9]))"
    r"(?P<rest>\.[0-9]+)?"
)


class Arithmetic(Generated):
    """Sums, differences (never below 0) and products of two whole numbers.

    Reinforcement learning shows best on numbers of which the model gets some right already:
    `tools: false` and mixed lengths, such as `digits: [1, 1, 2, 3]`.

    Args:
        operations: which of `+`, `-` and `*`, each as often as it is named.
        digits: how long the numbers are: up to so many digits, each length as often; or a list
            of lengths, each as often as it is named.
        tools: the solution asks the calculator; `mixed`: half of the solutions do.
        steps: the solution works by places: 47 + 58 by 47 + 50 = 97, 97 + 8 = 105. Without tools.
        answer: the last words of the solution: `equation` is 23 + 45 = 68, `number` is 68.
        wordings: how it is asked: `short` (23 + 45), `spoken` (23 plus 45), `story`.

    Raises:
        ConfigError: an operation, a wording or a length is not one of those above.
    """

    name = "arithmetic"

    def __init__(
        self,
        operations: str = "+-*",
        digits: int | list[int] = 2,
        *,
        tools: bool | Literal["mixed"] = True,
        steps: bool = False,
        answer: Literal["equation", "number"] = "equation",
        wordings: Sequence[str] = ("short",),
        train: int = 20_000,
        validation: int = 500,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(train=train, validation=validation, seed=seed, name=name)
        self.operations = check_names(operations, APPLY, "operations")
        self.lengths = _lengths(digits)
        if steps and tools is True:
            raise ConfigError("steps and the calculator", hint="write tools: false", key="steps")
        if steps:
            self.version = 2  # in 1 the steps of what is trained were held-out problems
        self.tools = tools
        self.steps = steps
        self.answer = answer
        self.wordings = check_names(wordings, WORDINGS, "wordings")
        number = 10 ** max(self.lengths) - 1
        self.max_new_tokens = most_tokens(
            self._solution(number, symbol, number, asked)
            for symbol in self.operations
            for asked in (True, False)
        )

    def settings(self) -> dict[str, Any]:
        return {
            "operations": "".join(self.operations),
            "digits": self.lengths,
            "tools": self.tools,
            "steps": self.steps,
            "answer": self.answer,
            "wordings": list(self.wordings),
        }

    def content(self, draw: Draw) -> tuple[str, int, int]:
        symbol = draw.choice(self.operations)
        small, large = sorted(_number(draw, draw.choice(self.lengths)) for _ in range(2))
        return symbol, small, large

    def problem(self, content: tuple[str, int, int], draw: Draw) -> Problem:
        symbol, small, large = content
        a, b = (large, small) if symbol == "-" or draw.below(2) else (small, large)
        asked = draw.choice(WORDINGS[draw.choice(self.wordings)][symbol])
        question = asked.format(a=a, b=b, name=draw.choice(NAMES))
        tools = bool(draw.below(2)) if self.tools == "mixed" else self.tools
        return Problem(
            messages=(Message("user", question),),
            solution=self._solution(a, symbol, b, tools),
            answer=str(APPLY[symbol](a, b)),
        )

    def shown(self, problem: Problem) -> Iterator[tuple[str, int, int]]:
        assert problem.solution is not None
        for step in problem.solution.text.split("\n")[:-1]:
            a, symbol, b, *_ = step.split()
            small, large = sorted((int(a), int(b)))
            yield symbol, small, large

    def score(self, problem: Problem, completion: Completion) -> float:
        """1 if the last number of the answer is the right one, else 0."""
        return float(last_number(completion.text) == Decimal(problem.answer))

    def _solution(self, a: int, symbol: str, b: int, tools: bool) -> Message:
        result = str(APPLY[symbol](a, b))
        said = f"{a} {symbol} {b} = {result}" if self.answer == "equation" else result
        if tools:
            called = Part("python", f"{a} {symbol} {b}"), Part("python_output", result)
            return Message("assistant", (*called, Part("text", said)))
        worked = "".join(f"{step}\n" for step in by_places(a, symbol, b)) if self.steps else ""
        return Message("assistant", worked + said)


def last_number(text: str) -> Decimal | None:
    """The last number that is written in a text: `1,234`, `-5`, `68.0`; None if there is none."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    found = numbers[-1]
    sign = "-" if found["sign"] else ""
    return Decimal(sign + found["whole"].replace(",", "") + (found["rest"] or ""))


def by_places(a: int, symbol: str, b: int) -> Iterator[str]:
    """The steps to a result, one place of b at a time, largest first; none if b has one place.

    47 + 58: `47 + 50 = 97`, `97 + 8 = 105`.
    12 * 34: `12 * 30 = 360`, `12 * 4 = 48`, `360 + 48 = 408`.
    """
    places = [int(digit) * 10**place for place, digit in enumerate(str(b)[::-1]) if digit != "0"]
    if len(places) < 2:
        return
    total = 0 if symbol == "*" else a
    for number, part in enumerate(reversed(places)):
        if symbol == "*":
            yield f"{a} * {part} = {a * part}"
            if number:
                yield f"{total} + {a * part} = {total + a * part}"
            total += a * part
        else:
            after = APPLY[symbol](total, part)
            yield f"{total} {symbol} {part} = {after}"
            total = after


def _lengths(digits: int | list[int]) -> list[int]:
    named = [digits] if isinstance(digits, int) else list(digits)
    if not named or any(not 1 <= length <= MAX_DIGITS for length in named):
        hint = f"numbers have 1 to {MAX_DIGITS} digits"
        raise ConfigError(f"digits is {digits}", hint=hint, key="digits")
    return list(range(1, digits + 1)) if isinstance(digits, int) else named


def _number(draw: Draw, length: int) -> int:
    """A number of so many digits; 0 has one."""
    least = 10 ** (length - 1) if length > 1 else 0
    return least + draw.below(10**length - least)
