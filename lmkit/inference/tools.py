"""tools: what a model can call while it writes, a calculator; ids in, the ids of its answer out.

The calculator reads an expression as a syntax tree and works out the few kinds of node it knows;
nothing of it is ever run as code. It needs no timer, for every step is bounded beforehand, and so
works in any thread (nanochat's `eval` under SIGALRM gives up in all but the main one).
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmkit.text.chat import ToolIds

MAX_CHARS = 500  # of an expression
MAX_DEPTH = 100  # operators inside one another; a sum of a hundred terms is that deep
MAX_BITS = 1000  # of an integer
MAX_FLOAT = 1e300

_STRING = r"'[^'\\]*'|\"[^\"\\]*\""
_NUMBER = r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\w,])"
_COMMAS = re.compile(rf"({_STRING})|({_NUMBER})")
# what may stand outside of strings; so Python's parser meets nothing that it would warn of
_PLAIN = re.compile(rf"(?:{_STRING}|\.count\(|len\(|[0-9eE.,+\-*/%() ])*")

Value = int | float | str


def calculate(expression: str) -> str | None:
    """Work out an expression as a pocket calculator would.

    Known are numbers (`1,234.5` and `1e3` too), + - * / // % **, parentheses, and of strings in
    quotes, without a backslash, `'text'.count('t')` and `len('text')`.

    Returns:
        A whole number without a point, also where it comes of a division (12 / 4 is 3). Any other
        rounded to 10 significant digits, of a large one to 4 places behind the point, without
        trailing zeros. None if the expression is anything else, has no result (1 / 0) or passes a
        limit: 500 characters, 100 operators inside one another, integers of 1,000 bits, 1e300.
    """
    expression = expression.strip()
    if len(expression) > MAX_CHARS or not _PLAIN.fullmatch(expression):
        return None
    expression = _COMMAS.sub(lambda found: found[1] or found[2].replace(",", ""), expression)
    try:
        value = _value(ast.parse(expression, mode="eval").body, MAX_DEPTH)
    except (_Unknown, SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None
    return None if isinstance(value, str) else _written(value)


class ToolUse:
    """Watches the ids of one row: where the model closes a call, gives the ids of the answer.

    Args:
        ids: the marks around a call and around what the tool gives back.
        decode: ids to text.
        encode: text to ids.
        tool: an expression to its result; None if it has none. Then nothing is put in, and the
            model goes on as it likes.
    """

    def __init__(
        self,
        ids: ToolIds,
        decode: Callable[[Sequence[int]], str],
        encode: Callable[[str], list[int]],
        tool: Callable[[str], str | None] = calculate,
    ) -> None:
        self.ids = ids
        self.decode = decode
        self.encode = encode
        self.tool = tool
        self._call: list[int] | None = None  # what the model has written since it opened a call

    def __call__(self, token: int) -> list[int]:
        """The ids to put behind this one, mostly none."""
        if token == self.ids.python_start:
            self._call = []
        elif token == self.ids.python_end and self._call is not None:
            result = self.tool(self.decode(self._call))
            self._call = None
            if result is not None:
                return [self.ids.output_start, *self.encode(result), self.ids.output_end]
        elif self._call is not None:
            self._call.append(token)
        return []


class _Unknown(Exception):
    """A node that is no arithmetic, or a number that is out of bounds."""


def _value(node: ast.expr, depth: int) -> Value:
    if depth == 0:
        raise _Unknown
    match node:
        case ast.Constant(value=int() | float() | str() as value):
            return _bounded(value)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
            value = _number(operand, depth)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            numbers = _number(left, depth), _number(right, depth)
            return _bounded(_OPERATORS[type(op)](*numbers))
        case ast.Call(func=ast.Name(id="len"), args=[text], keywords=[]):
            return len(_text(text, depth))
        case ast.Call(func=ast.Attribute(value=text, attr="count"), args=[part], keywords=[]):
            return _text(text, depth).count(_text(part, depth))
    raise _Unknown


def _number(node: ast.expr, depth: int) -> int | float:
    value = _value(node, depth - 1)
    if isinstance(value, str):
        raise _Unknown
    return value


def _text(node: ast.expr, depth: int) -> str:
    value = _value(node, depth - 1)
    if not isinstance(value, str):
        raise _Unknown
    return value


def _power(base: int | float, exponent: int | float) -> int | float:
    whole = isinstance(base, int) and isinstance(exponent, int)
    # at most twice as many bits are worked out
    if whole and (int(base).bit_length() - 1) * exponent > MAX_BITS:
        raise _Unknown
    return base**exponent


def _bounded(value: Value) -> Value:
    match value:
        case int() if value.bit_length() > MAX_BITS:
            raise _Unknown
        case float() if not abs(value) <= MAX_FLOAT:  # nor a NaN
            raise _Unknown
        case complex():  # (-8) ** 0.5
            raise _Unknown
    return value


_OPERATORS: dict[type[ast.operator], Callable[..., int | float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}


def _written(value: int | float) -> str:
    if isinstance(value, int):
        return str(value)
    if value.is_integer() and abs(value) < 2**53:  # where a float still counts one by one
        return str(int(value))
    digits = max(10, len(str(int(abs(value)))) + 4)
    return f"{value:.{min(digits, 15)}g}"  # a float has no more than 15 that are right
