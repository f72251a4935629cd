"""terminal: turns as they are typed, pasted or piped in, answers as they come; knows no model."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from lmkit.train.display import harmless

if TYPE_CHECKING:
    from lmkit.model.generate import Piece

Read = Callable[[str], str]  # a prompt in, a line out; EOFError when there is none

PROMPT, GOES_ON = "> ", ". "
DIM, PLAIN = "\033[2m", "\033[0m"


def read_turn(read: Read) -> str:
    """One turn: a line, and those after it as long as each ends in a backslash.

    Raises:
        EOFError: there are no more lines.
    """
    lines = [read(PROMPT)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        try:
            lines.append(read(GOES_ON))
        except EOFError:
            break
    return "\n".join(lines)


def reader() -> Read:
    """How to read: with editing, history and whole pasted blocks where a person types."""
    if not is_terminal():
        return _piped
    try:
        import readline
    except ImportError:  # Windows
        return _typed
    if "libedit" in (readline.__doc__ or ""):  # Apple's, which cannot tell what was pasted
        return _typed
    readline.parse_and_bind("set enable-bracketed-paste on")  # Python switches it off
    return input


def is_terminal() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _piped(prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _typed(prompt: str) -> str:
    """A line, and what follows within 50 ms: nobody types that fast, so it was pasted."""
    lines = [input(prompt)]
    while os.name == "posix" and select.select([sys.stdin], [], [], 0.05)[0]:
        try:
            lines.append(input())
        except EOFError:
            break
    return "\n".join(lines)


class Screen:
    """Shows an answer's pieces; calls of tools as [12 * 7 = 84], dim where there are colours."""

    def __init__(self) -> None:
        self.is_terminal = is_terminal()
        self.coloured = self.is_terminal and not os.environ.get("NO_COLOR")
        self._kind = "text"

    def show(self, piece: Piece) -> None:
        """Write a piece at once."""
        text = harmless(piece.text, sys.stdout)
        closing = self._turn_to(piece.kind)
        apart = " " if closing and piece.kind == "text" and not text[:1].isspace() else ""
        print(closing + apart + text, end="", flush=True)

    def end(self) -> None:
        """The answer is over."""
        print(self._turn_to("text"))

    def note(self, text: str) -> None:
        """Tell a person, and not a pipe."""
        if self.is_terminal:
            print(self._dim() + f"({harmless(text, sys.stdout)})" + self._plain())

    def _turn_to(self, kind: str) -> str:
        before, self._kind = self._kind, kind
        if before == kind:
            return ""
        if (before, kind) == ("python", "python_output"):
            return " = "
        closed = "" if before == "text" else "]" + self._plain()
        return closed if kind == "text" else f"{closed}{self._dim()}["

    def _dim(self) -> str:
        return DIM if self.coloured else ""

    def _plain(self) -> str:
        return PLAIN if self.coloured else ""
