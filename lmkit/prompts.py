"""prompts: what a model is asked and what it answers, as plain data; knows no tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lmkit.errors import DataError, did_you_mean

_KEYS = ("prompt", "truth", "text", "messages")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: who says it, and what is said."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """One sample to train on or to answer, of exactly one shape.

    Args:
        prompt: the question; with ``truth``, the answer that is to be learned.
        truth: the right continuation of ``prompt``.
        text: a plain document.
        messages: a conversation.
        at: where it was read, ``file:line``, for error messages; two equal prompts may differ here.

    Raises:
        DataError: two shapes are mixed.
    """

    prompt: str = ""
    truth: str | None = None
    text: str | None = None
    messages: tuple[Message, ...] = ()
    at: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        asked = bool(self.prompt) or self.truth is not None
        if asked + (self.text is not None) + bool(self.messages) > 1:
            raise DataError(
                "a prompt has two shapes at once",
                hint="give {text}, {prompt, truth} or {messages}",
                at=self.at or None,
            )

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
    itself (``stop``: an end token or a stop string) or was cut (``length``).
    """

    prompt: str
    text: str
    ids: tuple[int, ...]
    finish: Literal["stop", "length"]


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
    return Message(_string(item, "role", at), _string(item, "content", at))
