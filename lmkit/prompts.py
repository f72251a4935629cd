"""prompts: what a model is asked and what it answers, as plain data; knows no tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lmkit.errors import DataError, did_you_mean

_KEYS = ("prompt", "truth", "text", "messages", "chosen", "rejected")
PART_TYPES = ("text", "python", "python_output")


@dataclass(frozen=True)
class Part:
    """A stretch of what an assistant says: text, a call of a tool, or what the tool gave back."""

    type: str
    text: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: who says it, and what is said, in one piece or in parts."""

    role: str
    content: str | tuple[Part, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts; plain content is one of text."""
        return (Part("text", self.content),) if isinstance(self.content, str) else self.content

    @property
    def text(self) -> str:
        """What a reader sees: the parts of text, without the tools."""
        return "".join(part.text for part in self.parts if part.type == "text")


@dataclass(frozen=True)
class Prompt:
    """One sample to train on or to answer, of exactly one shape.

    Args:
        prompt: the question; with ``truth``, the answer that is to be learned.
        truth: the right continuation of ``prompt``.
        text: a plain document.
        messages: a conversation.
        chosen: of two answers to ``prompt`` or ``messages`` the preferred one,
        rejected: and the other one.
        at: where it was read, ``file:line``, for error messages; two equal prompts may differ here.

    Raises:
        DataError: two shapes are mixed.
    """

    prompt: str = ""
    truth: str | None = None
    text: str | None = None
    messages: tuple[Message, ...] = ()
    chosen: str | None = None
    rejected: str | None = None
    at: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        asked = bool(self.prompt) or self.truth is not None
        if asked + (self.text is not None) + bool(self.messages) > 1:
            raise DataError(
                "a prompt has two shapes at once",
                hint="give {text}, {prompt, truth} or {messages}",
                at=self.at or None,
            )
        if (self.chosen is None) != (self.rejected is None):
            missing = "chosen" if self.chosen is None else "rejected"
            raise DataError(
                f"a preference lacks {missing!r}",
                hint="write {prompt, chosen, rejected}",
                at=self.at or None,
            )
        if self.chosen is not None and (self.text is not None or self.truth is not None):
            raise DataError(
                "a preference has another truth",
                hint="write {prompt, chosen, rejected}",
                at=self.at or None,
            )

    @property
    def said(self) -> Iterator[str]:
        """All that is said in it, whatever its shape; empty texts are left out."""
        plain = (self.text, self.prompt, self.truth, self.chosen, self.rejected)
        yield from filter(None, plain)
        yield from (part.text for turn in self.messages for part in turn.parts if part.text)

    @property
    def pair(self) -> tuple[Prompt, Prompt]:
        """A preference as two samples: with the chosen answer, and with the rejected one."""
        assert self.chosen is not None
        assert self.rejected is not None
        return self._answered(self.chosen), self._answered(self.rejected)

    def _answered(self, answer: str) -> Prompt:
        if self.messages:
            return Prompt(messages=(*self.messages, Message("assistant", answer)), at=self.at)
        return Prompt(prompt=self.prompt, truth=answer, at=self.at)

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Prompt, at: str = "") -> Prompt:
        """Make a Prompt of a plain string (``{prompt: ...}``) or a mapping read from a file.

        Raises:
            DataError: a key is unknown or missing, or a value has the wrong type; names ``at``.
        """
        if isinstance(value, Prompt):
            return value
        if isinstance(value, str):
            return cls(prompt=value, at=at)
        if not isinstance(value, Mapping):
            raise DataError(
                f"a prompt must be a string or a mapping, not {type(value).__name__}", at=at or None
            )
        _check_keys(value, at)
        fields = {key: _string(value, key, at) for key in value if key != "messages"}
        messages = _messages(value["messages"], at) if "messages" in value else ()
        return cls(**fields, messages=messages, at=at)


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    ``ids`` are the new tokens without the end mark; ``finish`` says whether the model ended by
    itself (``stop``: an end token or a stop string) or was cut (``length``). ``parts`` holds the
    calls of tools and what they gave as well; ``text`` is what a reader sees. ``forced`` are the
    places in ``ids`` of the tokens that a tool wrote; ``end`` is the token that the model ended
    with, None if it did not.
    """

    prompt: str
    text: str
    ids: tuple[int, ...]
    finish: Literal["stop", "length"]
    parts: tuple[Part, ...] = ()
    forced: frozenset[int] = frozenset()
    end: int | None = None

    @property
    def transcript(self) -> str:
        """All that was written, the tools too: `[12 * 7 = 84] 12 * 7 = 84`."""
        brackets = {"text": "{}", "python": "[{}", "python_output": " = {}] "}
        told = "".join(brackets[part.type].format(part.text) for part in self.parts)
        return told or self.text


def _check_keys(value: Mapping[str, Any], at: str) -> None:
    for key in value:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS) or f"a prompt has {', '.join(_KEYS)}"
            raise DataError(f"a prompt has no {key!r}", hint=hint, at=at or None)
    if not value.keys() & {"prompt", "text", "messages"}:
        raise DataError(
            "a prompt needs 'prompt', 'text' or 'messages'",
            hint="write {text: ...} or {prompt: ..., truth: ...}",
            at=at or None,
        )


def _string(value: Mapping[str, Any], key: str, at: str) -> str:
    found = value.get(key)
    if not isinstance(found, str):
        kind = "missing" if found is None else f"{type(found).__name__}, not a string"
        raise DataError(f"{key!r} is {kind}", at=at or None)
    return found


def _messages(value: object, at: str) -> tuple[Message, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise DataError("'messages' must be a list of {role, content}, not empty", at=at or None)
    return tuple(_message(item, at) for item in value)


def _message(item: object, at: str) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping) or item.keys() != {"role", "content"}:
        raise DataError(
            "a message has exactly 'role' and 'content'",
            hint="write {role: user, content: ...}",
            at=at or None,
        )
    if isinstance(item["content"], list | tuple):
        content = tuple(_part(part, at) for part in item["content"])
        return Message(_string(item, "role", at), content)
    return Message(_string(item, "role", at), _string(item, "content", at))


def _part(item: object, at: str) -> Part:
    if isinstance(item, Part):
        return item
    if not isinstance(item, Mapping) or item.keys() != {"type", "text"}:
        raise DataError(
            "a part of a message has exactly 'type' and 'text'",
            hint="write {type: text, text: ...}",
            at=at or None,
        )
    kind = _string(item, "type", at)
    if kind not in PART_TYPES:
        hint = did_you_mean(kind, PART_TYPES) or f"there are {', '.join(PART_TYPES)}"
        raise DataError(f"a part has the type {kind!r}", hint=hint, at=at or None)
    return Part(kind, _string(item, "text", at))
