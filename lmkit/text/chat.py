"""chat: a conversation becomes ids and the mask of what is trained; the only way it does.

Training, evaluation, chat and serving all come here. The layout is the tokenizer's
`lmkit.text.template.ChatTemplate`; here its pieces are encoded: special tokens count in the
template's own words only, what was said is ordinary text. Neighbouring ordinary text is encoded in
one piece, save where training begins or ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lmkit.errors import DataError, TokenizerError, did_you_mean
from lmkit.prompts import Message
from lmkit.text.template import (
    PROBE,
    PROBE_SYSTEM,
    PROBE_TOOL,
    SPECIAL,
    ChatTemplate,
    Piece,
)

if TYPE_CHECKING:
    from lmkit.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
GENERATION = "{% generation %}...{% endgeneration %}"


@dataclass(frozen=True)
class ToolIds:
    """The special tokens around a tool's call and around what it gave back."""

    python_start: int
    python_end: int
    output_start: int
    output_end: int


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """A conversation to train on: ids that begin with bos.

    Returns:
        ids, and for each whether it is trained: what the assistant says, the token that ends its
        turn, its calls of tools. Not what a tool gave back. What a template writes behind the last
        token of the last answer (ChatML a line's end) is left to the turn after it.

    Raises:
        DataError: as `check_conversation`, or the template refuses the conversation.
        TokenizerError: the template is wrong, or breaks a rule that it has to keep; or the text is
            not valid Unicode.
    """
    check_conversation(messages)
    ids, mask = _renderer(tokenizer, tokenizer.chat).encode(messages)
    while messages[-1].role == "assistant" and not mask[-1]:
        del ids[-1], mask[-1]
    return ids, mask


def ask(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """A conversation to answer: its ids up to where the assistant speaks next.

    Raises:
        DataError: as `render`; or the last turn is not the user's.
        TokenizerError: as `render`.
    """
    check_conversation(messages)
    if messages[-1].role != "user":
        raise DataError(f"the last turn is the {messages[-1].role}'s: there is nothing to answer")
    return _renderer(tokenizer, tokenizer.chat).encode(messages, ask=True)[0]


def end_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids that end an assistant's turn, where generation stops.

    Raises:
        TokenizerError: as `render`.
    """
    return {_renderer(tokenizer, tokenizer.chat).end}


def tool_ids(tokenizer: Tokenizer) -> ToolIds | None:
    """The special tokens around calls of tools; None if the template has no place for tools.

    Raises:
        TokenizerError: as `render`.
    """
    return _renderer(tokenizer, tokenizer.chat).tools


def check_template(tokenizer: Tokenizer) -> None:
    """Try the tokenizer's template on a few conversations, once.

    Raises:
        TokenizerError: it fails, or it breaks a rule: bos comes first and only there, just what
            the assistant says is trained, the token that ends its turn is special and trained, a
            conversation's prefix is rendered as its beginning.
    """
    _renderer(tokenizer, tokenizer.chat)


def check_conversation(messages: Sequence[Message], at: str | None = None) -> None:
    """Refuse what is no conversation: the system may speak first, then user and assistant by turns.

    Raises:
        DataError: no messages, an unknown role, a role out of its turn, an assistant that says
            nothing, a tool's output without a call, a call that is not the assistant's.
    """
    if not messages:
        raise DataError("a conversation without messages", at=at)
    expected: tuple[str, ...] = ("system", "user")
    for number, message in enumerate(messages, start=1):
        role = message.role
        if role not in ROLES:
            hint = did_you_mean(role, ROLES) or f"roles are {', '.join(ROLES)}"
            raise DataError(f"turn {number} has the role {role!r}", hint=hint, at=at)
        if role not in expected:
            raise DataError(
                f"turn {number} is the {role}'s, expected the {' or the '.join(expected)}'s",
                hint="the system speaks first or not at all, then user and assistant by turns",
                at=at,
            )
        _check_parts(message, number, at)
        expected = ("assistant",) if role == "user" else ("user",)


def _check_parts(message: Message, number: int, at: str | None) -> None:
    before = ""
    for part in message.parts:
        if part.type != "text" and message.role != "assistant":
            raise DataError(
                f"turn {number} is the {message.role}'s and has a part {part.type!r}",
                hint="only the assistant calls tools",
                at=at,
            )
        if part.type == "python_output" and before != "python":
            raise DataError(
                f"turn {number} has a tool's output without a call before it",
                hint="a 'python_output' follows the 'python' that it is the answer to",
                at=at,
            )
        before = part.type
    if message.role == "assistant" and not any(part.text for part in message.parts):
        raise DataError(f"turn {number} is the assistant's and empty", at=at)


@lru_cache(maxsize=16)
def _renderer(tokenizer: Tokenizer, template: ChatTemplate) -> _Renderer:
    """A template and a tokenizer that were tried together, once."""
    renderer = _Renderer(tokenizer, template)
    renderer.check()
    return renderer


class _Renderer:
    """A template in the ids of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self.tokenizer = tokenizer
        self.template = template
        names = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self.special = re.compile("|".join([*map(re.escape, names), SPECIAL.pattern]))
        self._split = lru_cache(maxsize=1024)(self._split_special)

    def encode(
        self, messages: Sequence[Message], ask: bool = False
    ) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        mask: list[bool] = []
        text, said = "", False
        for token, trained in [*self._tokens(self.template.render(messages, ask)), (None, False)]:
            if text and (said != trained or not isinstance(token, str)):
                new = self.tokenizer.encode(text)
                ids += new
                mask += [said] * len(new)
                text = ""
            if isinstance(token, str):
                text, said = text + token, trained
            elif token is not None:
                ids.append(token)
                mask.append(trained)
        if ids[:1] != [self.tokenizer.bos]:  # a sample begins with bos, whatever the template says
            return [self.tokenizer.bos, *ids], [False, *mask]
        return ids, mask

    def _tokens(self, pieces: Sequence[Piece]) -> Iterator[tuple[int | str | None, bool]]:
        """Special tokens as ids, ordinary text as it is, a cut as None; each trained or not."""
        marks = {"bos": self.tokenizer.bos, "eos": self.tokenizer.eos, "cut": None}
        for piece in pieces:
            if piece.kind == "template":
                for token in self._split(piece.text):
                    yield token, piece.trained
            elif piece.kind in marks:
                yield marks[piece.kind], piece.trained
            else:
                yield piece.text, piece.trained

    def _split_special(self, text: str) -> list[int | str]:
        """The template's own words: special tokens, and what stands between them."""
        tokens: list[int | str] = []
        end = 0
        for found in self.special.finditer(text):
            name = found.group()
            if name not in self.tokenizer.special_tokens:
                raise self._broken(
                    f"writes {name}, which is no special token of {type(self.tokenizer).__name__}",
                    "use a tokenizer that has it, or chat: plain",
                )
            tokens += [text[end : found.start()], self.tokenizer.special_tokens[name]]
            end = found.end()
        return [token for token in (*tokens, text[end:]) if token != ""]

    # --- what a template has to keep -----------------------------------------------------------

    def check(self) -> None:
        """Try the rules of `check_template`, and note the ids that generation asks for."""
        try:
            self.end = self._end()
            self._check_rendering(PROBE)
        except DataError as error:
            raise self._broken(
                f"cannot render a plain conversation: {error.what}",
                "user and assistant by turns, without a system's turn, have to do",
            ) from error
        with suppress(DataError):  # one without a place for the system says so when there is one
            self._check_rendering(PROBE_SYSTEM)
        self.tools = self._tools()

    def _end(self) -> int:
        """The token right behind what the assistant says."""
        tokens = [*self._tokens(self.template.render(PROBE[:2])), (None, False)]
        said = PROBE[1].text, True
        if said not in tokens:
            raise self._broken(
                "does not mark what the assistant says as trained",
                f"put {GENERATION} around it and the token that ends it",
            )
        token, trained = tokens[tokens.index(said) + 1]
        if not isinstance(token, int) or not trained:
            raise self._broken(
                "does not train a special token that ends the assistant's turn",
                "put one, such as {{ eos_token }}, behind what the assistant says and before "
                "{% endgeneration %}: the model would never learn to stop",
            )
        return token

    def _check_rendering(self, probe: Sequence[Message]) -> None:
        whole, mask = self.encode(probe)
        if [i for i, said in zip(whole, mask, strict=True) if not said].count(whole[0]) > 1:
            raise self._broken("writes bos more than once", "begin with {{ bos_token }}")
        start = 0
        for turns in (len(probe) - 2, len(probe)):
            asked, _ = self.encode(probe[: turns - 1], ask=True)
            answered, _ = self.encode(probe[:turns])
            if answered[: len(asked)] != asked or whole[: len(answered)] != answered:
                raise self._broken(
                    "writes a turn otherwise when the conversation goes on",
                    "what add_generation_prompt gives stands before {% generation %} in the turn "
                    "itself, and no turn depends on those after it",
                )
            if any(mask[start : len(asked)]) or not mask[len(asked)]:
                raise self._broken(
                    "does not train just what the assistant says",
                    f"{GENERATION} begins where the words of add_generation_prompt end",
                )
            start = len(answered)

    def _tools(self) -> ToolIds | None:
        """The tokens around a call and around its output."""
        try:
            tokens = [*self._tokens(self.template.render(PROBE_TOOL))]
            call, output = tokens.index(("6*7", True)), tokens.index(("42", False))
        except (DataError, ValueError):
            return None
        around = [tokens[at] for at in (call - 1, call + 1, output - 1, output + 1)]
        ids = [token for token, _ in around if isinstance(token, int)]
        return ToolIds(*ids) if len(ids) == 4 else None

    def _broken(self, what: str, hint: str) -> TokenizerError:
        return TokenizerError(f"the chat template {what}", hint=hint, at=self.template.at)
