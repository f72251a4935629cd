"""Conversations to ids and masks: the laws of every template, and what is no conversation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkit.errors import DataError
from lmkit.prompts import Message, Part, Prompt
from lmkit.text import chat
from lmkit.text.chat import ToolIds
from lmkit.text.encodings import CHAT_TOKENS
from lmkit.text.samples import encode_prompt
from lmkit.text.template import packaged
from lmkit.text.tokenizer import Byte, Tiktoken, Tokenizer

TOKENIZERS = {name: Tiktoken("python4k", chat=name) for name in packaged()}
NANOCHAT, PLAIN = TOKENIZERS["nanochat"], TOKENIZERS["plain"]
each = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)

SUM = Message(
    "assistant",
    (Part("text", "Let me see: "), Part("python", "2+2"), Part("python_output", "4")),
)
TALK = (
    Message("system", "Be short."),
    Message("user", "2+2?"),
    SUM,
    Message("user", "Thanks"),
    Message("assistant", "Bye"),
)

# words that would end a turn, open another one or look like a placeholder, if they were not text
spelled = [name for tokenizer in TOKENIZERS.values() for name in tokenizer.special_tokens]
spelled += ["\0" + "0\0", "\0bos\0", "{{ bos_token }}", "user:\n", "\n\n", " ", "é🙂"]
words = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(spelled)), max_size=5).map("".join)
nonempty = words.map(lambda text: text + "x")
tool_use = st.tuples(nonempty, words, words).map(
    lambda said: (
        Part("text", said[0]),
        Part("python", said[1]),
        Part("python_output", said[2]),
        Part("text", "so"),
    )
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """One to three questions with their answers, perhaps after a system's turn."""
    turns = [Message("system", draw(nonempty))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Message("user", draw(words)))
        turns.append(Message("assistant", draw(st.one_of(nonempty, tool_use))))
    return tuple(turns)


def trained(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[str]:
    """The stretches of text that are trained."""
    ids, mask = chat.render(tokenizer, messages)
    runs = groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])
    return [tokenizer.decode(i for i, _ in run) for said, run in runs if said]


# --- what every template keeps ----------------------------------------------------------------


@each
@given(talk=conversations())
def test_a_prefix_of_a_conversation_renders_to_a_prefix(
    tokenizer: Tokenizer, talk: tuple[Message, ...]
) -> None:
    whole, mask = chat.render(tokenizer, talk)
    for turns in range(1, len(talk) + 1):
        if talk[turns - 1].role == "assistant":
            part, part_mask = chat.render(tokenizer, talk[:turns])
            assert whole[: len(part)] == part
            assert mask[: len(part)] == part_mask
        if talk[turns - 1].role == "user":
            asked = chat.ask(tokenizer, talk[:turns])
            assert whole[: len(asked)] == asked


@each
@given(talk=conversations())
def test_what_is_said_never_becomes_a_special_token(
    tokenizer: Tokenizer, talk: tuple[Message, ...]
) -> None:
    special = set(tokenizer.special_tokens.values())
    harmless = [
        Message(turn.role, tuple(Part(part.type, "x") for part in turn.parts)) for turn in talk
    ]
    found, expected = (
        [i for i in chat.render(tokenizer, messages)[0] if i in special]
        for messages in (talk, harmless)
    )
    assert found == expected


@each
@given(talk=conversations())
def test_just_the_assistants_words_and_its_end_are_trained(
    tokenizer: Tokenizer, talk: tuple[Message, ...]
) -> None:
    ids, mask = chat.render(tokenizer, talk)
    (end,) = chat.end_ids(tokenizer)
    answers = [turn for turn in talk if turn.role == "assistant"]
    assert ids[-1] == end
    assert sum(said for i, said in zip(ids, mask, strict=True) if i == end) == len(answers)
    ends = tokenizer.decode([end])
    if chat.tool_ids(tokenizer) is None:
        trims = tokenizer.chat.name == "llama3"
        said = [turn.text.strip() if trims else turn.text for turn in answers]
    else:
        around = {"text": ("", ""), "python": ("<|python_start|>", "<|python_end|>")}
        said = [
            "".join(part.text.join(around[part.type]) for part in turn.parts if part.type in around)
            for turn in answers
        ]
    assert "".join(trained(tokenizer, talk)) == "".join(f"{text}{ends}" for text in said)


@each
@given(talk=conversations())
def test_there_is_one_bos_and_it_comes_first(
    tokenizer: Tokenizer, talk: tuple[Message, ...]
) -> None:
    ids, mask = chat.render(tokenizer, talk)
    assert ids[0] == tokenizer.bos
    untrained = [i for i, said in zip(ids, mask, strict=True) if not said]
    assert untrained.count(tokenizer.bos) == 1  # where bos is eos too, answers end with it


# --- the formats ------------------------------------------------------------------------------


def test_nanochat() -> None:
    ids, _ = chat.render(NANOCHAT, TALK)
    assert NANOCHAT.decode(ids) == (
        "<|bos|><|system_start|>Be short.<|system_end|><|user_start|>2+2?<|user_end|>"
        "<|assistant_start|>Let me see: <|python_start|>2+2<|python_end|>"
        "<|output_start|>4<|output_end|><|assistant_end|>"
        "<|user_start|>Thanks<|user_end|><|assistant_start|>Bye<|assistant_end|>"
    )
    assert trained(NANOCHAT, TALK) == [
        "Let me see: <|python_start|>2+2<|python_end|>",
        "<|assistant_end|>",
        "Bye<|assistant_end|>",
    ]
    at = NANOCHAT.special_tokens
    assert chat.end_ids(NANOCHAT) == {at["<|assistant_end|>"]}
    assert chat.tool_ids(NANOCHAT) == ToolIds(*(at[name] for name in CHAT_TOKENS[5:9]))
    assert chat.ask(NANOCHAT, TALK[:2])[-1] == at["<|assistant_start|>"]


@pytest.mark.parametrize(
    ("name", "said", "asked"),
    [
        (
            "chatml",
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>",
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3",
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|>",
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("prompt_truth", "HiYo<|endoftext|>", "Hi"),
        ("plain", "user:\nHi\n\nassistant:\nYo<|endoftext|>", "user:\nHi\n\nassistant:\n"),
    ],
)
def test_other_formats(name: str, said: str, asked: str) -> None:
    tokenizer = TOKENIZERS[name]
    talk = [Message("user", "Hi"), Message("assistant", "Yo")]
    assert tokenizer.decode(chat.render(tokenizer, talk)[0]) == "<|endoftext|>" + said
    assert tokenizer.decode(chat.ask(tokenizer, talk[:1])) == "<|endoftext|>" + asked
    assert chat.tool_ids(tokenizer) is None


def test_prompt_truth_is_the_shape_of_that_name() -> None:
    tokenizer = TOKENIZERS["prompt_truth"]
    talk = (Message("user", "2+2="), Message("assistant", " 4"))
    one = encode_prompt(tokenizer, Prompt(messages=talk), include_prompts=False)
    other = encode_prompt(tokenizer, Prompt(prompt="2+2=", truth=" 4"), include_prompts=False)
    assert one.ids.tolist() == other.ids.tolist()
    assert one.mask.tolist() == other.mask.tolist()


OLD = (
    Message("system", "Be short.\n"),
    Message("user", " Hi! \n\n"),
    Message("assistant", " Yo  "),
    Message("user", "<|endoftext|>?"),
    Message("assistant", "\nIt's é🙂 4!\n\n"),
)


@pytest.mark.parametrize(
    ("tokenizer", "rendered", "asked"),
    [
        (Byte(), "fb2d7e9bad04", "f5cc64a86c5c"),
        (Tiktoken("gpt2"), "578bc8e56423", "3a2f484fe99e"),
        (Tiktoken("python4k"), "52859af7d951", "69c44b689fe2"),
    ],
    ids=["byte", "gpt2", "python4k"],
)
def test_plain_gives_the_ids_that_checkpoints_were_trained_on(
    tokenizer: Tokenizer, rendered: str, asked: str
) -> None:
    """The digests were made before there were templates."""

    def digest(found: object) -> str:
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]

    assert tokenizer.chat.name == "plain"
    assert digest(chat.render(tokenizer, OLD)) == rendered
    assert digest(chat.ask(tokenizer, OLD[:4])) == asked


def test_plain_on_gpt2_ids_in_full() -> None:
    ids, mask = chat.render(Tiktoken("gpt2"), OLD[:3])
    head = [50256, 10057, 25, 198, 3856, 1790, 13, 628, 198, 7220, 25, 198, 15902, 0, 220, 628, 628]
    assert ids == [*head, 562, 10167, 25, 198, 25455, 220, 220, 50256]
    assert mask == [False] * 21 + [True] * 4


# --- what is no conversation ------------------------------------------------------------------

USER, ASSISTANT, SYSTEM = (Message(role, "x") for role in ("user", "assistant", "system"))


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        ([], "without messages"),
        ([Message("robot", "x")], "turn 1 has the role 'robot'; roles are system, user, assistant"),
        ([Message("asistant", "x")], "'asistant'; did you mean 'assistant'?"),
        ([ASSISTANT], "turn 1 is the assistant's, expected the system or the user's"),
        ([USER, USER], "turn 2 is the user's, expected the assistant's"),
        ([USER, ASSISTANT, ASSISTANT], "turn 3 is the assistant's, expected the user's"),
        ([USER, SYSTEM], "turn 2 is the system's.*the system speaks first"),
        ([SYSTEM, SYSTEM], "turn 2 is the system's, expected the user's"),
        ([USER, Message("assistant", "")], "turn 2 is the assistant's and empty"),
        ([USER, Message("assistant", ())], "turn 2 is the assistant's and empty"),
        (
            [USER, Message("assistant", (Part("text", "a"), Part("python_output", "4")))],
            "turn 2 has a tool's output without a call",
        ),
        (
            [
                USER,
                Message(
                    "assistant",
                    (Part("python", "1"), Part("python_output", "1"), Part("python_output", "1")),
                ),
            ],
            "turn 2 has a tool's output without a call",
        ),
        ([Message("user", (Part("python", "1"),))], "turn 1 is the user's and has a part 'python'"),
    ],
)
def test_what_is_no_conversation(talk: list[Message], said: str) -> None:
    for render in (chat.render, chat.ask):
        with pytest.raises(DataError, match=said):
            render(NANOCHAT, talk)
    with pytest.raises(DataError, match=f"^a.jsonl:7: .*{said}"):
        chat.check_conversation(talk, at="a.jsonl:7")


def test_who_is_asked() -> None:
    with pytest.raises(DataError, match="the last turn is the assistant's: there is nothing to"):
        chat.ask(PLAIN, [USER, ASSISTANT])
    with pytest.raises(DataError, match="the last turn is the system's"):
        chat.ask(PLAIN, [SYSTEM])
    chat.render(PLAIN, [USER])  # nothing of it is trained, which is no error here


def test_a_turn_of_tools_only_needs_a_template_with_tools() -> None:
    calls = [USER, Message("assistant", SUM.parts[1:])]
    assert trained(NANOCHAT, calls)[0] == "<|python_start|>2+2<|python_end|>"
    with pytest.raises(DataError, match="'chatml' leaves out turn 2, the assistant's.*nanochat"):
        chat.render(TOKENIZERS["chatml"], calls)
    assert trained(TOKENIZERS["chatml"], [USER, SUM]) == ["Let me see: <|im_end|>"]
