"""chat: messages become ids, and the mask of what the assistant says; no special tokens yet.

The plain form: a line with the role, the content, an empty line. What the assistant says ends with
eos instead, where generation stops:

    <bos>user:
    What is 2 + 2?

    assistant:
    4<eos>
"""

from __future__ import annotations

from collections.abc import Sequence

from lmkit.errors import DataError
from lmkit.prompts import Message
from lmkit.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """A conversation to train on.

    Returns:
        ids, and for each whether it is trained: what the assistant says, and its eos.

    Raises:
        DataError: no message at all, or a role that is not system, user or assistant.
    """
    if not messages:
        raise DataError("a conversation without messages")
    ids, mask = [tokenizer.bos], [False]
    for message in messages:
        head, body = _turn(tokenizer, message)
        said = message.role == "assistant"
        ids += head + body
        mask += [False] * len(head) + [said] * len(body)
    return ids, mask


def ask(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """A conversation to answer: its ids, up to where the assistant speaks next.

    Raises:
        DataError: as `render`.
    """
    ids, _ = render(tokenizer, messages)
    head, _ = _turn(tokenizer, Message("assistant", ""))
    return ids + head


def _turn(tokenizer: Tokenizer, message: Message) -> tuple[list[int], list[int]]:
    if message.role not in ROLES:
        raise DataError(
            f"a message has the role {message.role!r}", hint=f"roles are {', '.join(ROLES)}"
        )
    head = tokenizer.encode(f"{message.role}:\n")
    if message.role == "assistant":
        return head, [*tokenizer.encode(message.content), tokenizer.eos]
    return head, tokenizer.encode(f"{message.content}\n\n")
