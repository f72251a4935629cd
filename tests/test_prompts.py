"""prompts: one shape each, and every wrong mapping named with its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.errors import DataError
from lmkit.prompts import Completion, Message, Part, Prompt


def test_of_reads_the_three_shapes_and_a_plain_string() -> None:
    assert Prompt.of("2+2=") == Prompt(prompt="2+2=")
    assert Prompt.of({"prompt": "2+2=", "truth": "4"}) == Prompt(prompt="2+2=", truth="4")
    assert Prompt.of({"text": "a document"}) == Prompt(text="a document")
    said = {"role": "user", "content": "hello"}
    assert Prompt.of({"messages": [said]}) == Prompt(messages=(Message("user", "hello"),))
    assert Prompt.of({"prompt": "", "truth": "x"}).truth == "x"
    ready = Prompt(text="x")
    assert Prompt.of(ready) is ready


def test_a_message_may_have_parts() -> None:
    parts = [{"type": "text", "text": "So "}, {"type": "python", "text": "1+1"}]
    parts += [{"type": "python_output", "text": "2"}, {"type": "text", "text": "two"}]
    (said,) = Prompt.of({"messages": [{"role": "assistant", "content": parts}]}).messages
    assert said.parts[1] == Part("python", "1+1")
    assert said.text == "So two"
    plain = Message("user", "hello")
    assert plain.parts == (Part("text", "hello"),)
    assert plain.text == "hello"
    ready = {"role": "assistant", "content": [Part("python", "1+1")]}
    assert Prompt.of({"messages": [plain, ready]}).messages == (
        plain,
        Message("assistant", (Part("python", "1+1"),)),
    )


def test_a_preference_is_a_pair_of_samples() -> None:
    asked = Prompt.of({"prompt": "2+2=", "chosen": "4", "rejected": "5"}, at="f.jsonl:3")
    chosen, rejected = asked.pair
    assert chosen == Prompt(prompt="2+2=", truth="4")
    assert rejected == Prompt(prompt="2+2=", truth="5")
    assert rejected.at == "f.jsonl:3"
    user = {"role": "user", "content": "2+2?"}
    chosen, _ = Prompt.of({"messages": [user], "chosen": "4", "rejected": "5"}).pair
    assert chosen == Prompt(messages=(Message("user", "2+2?"), Message("assistant", "4")))


def test_all_that_is_said_in_a_prompt() -> None:
    turns = (Message("user", "a"), Message("assistant", (Part("python", "b"), Part("text", ""))))
    assert list(Prompt(messages=turns, chosen="c", rejected="d").said) == ["c", "d", "a", "b"]
    assert list(Prompt(prompt="p", truth="").said) == ["p"]
    assert list(Prompt(text="t").said) == ["t"]


def test_the_place_is_kept_but_not_compared() -> None:
    prompt = Prompt.of({"text": "a"}, at="f.jsonl:3")
    assert prompt.at == "f.jsonl:3"
    assert prompt == Prompt(text="a")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"promt": "x"}, "a prompt has no 'promt'; did you mean 'prompt'?"),
        ({"truth": "x"}, "a prompt needs 'prompt', 'text' or 'messages'"),
        ({}, "a prompt needs"),
        ({"text": 3}, "'text' is int, not a string"),
        ({"prompt": "x", "truth": None}, "'truth' is missing"),
        ({"text": "x", "prompt": "y"}, "two shapes"),
        ({"messages": []}, "not empty"),
        ({"messages": "hello"}, "must be a list"),
        ({"messages": [{"role": "user"}]}, "exactly 'role' and 'content'"),
        ({"messages": [{"role": "user", "content": 3}]}, "'content' is int"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "exactly 'type' and 'text'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "pyton", "text": "x"}]}]},
            "a part has the type 'pyton'; did you mean 'python'?",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
            "'text' is int, not a string",
        ),
        ({"prompt": "x", "chosen": "a"}, "a preference lacks 'rejected'; write {prompt, chosen"),
        ({"prompt": "x", "rejected": "a"}, "a preference lacks 'chosen'"),
        ({"chosen": "a", "rejected": "b"}, "a prompt needs"),
        ({"prompt": "x", "truth": "y", "chosen": "a", "rejected": "b"}, "has another truth"),
        ({"text": "x", "chosen": "a", "rejected": "b"}, "has another truth"),
        (3, "must be a string or a mapping, not int"),
    ],
)
def test_wrong_mappings_say_where_and_what(value: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        Prompt.of(value, at="f.jsonl:3")
    assert str(caught.value).startswith("f.jsonl:3: ")
    assert said in str(caught.value)


anything = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["prompt", "truth", "text", "messages", "role", "content", "type", "chosen", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(anything)
@settings(max_examples=50)
def test_any_value_is_a_prompt_or_a_data_error(value: Any) -> None:
    said = ""
    try:
        Prompt.of(value, at="here")
    except DataError as error:
        said = str(error)
    assert not said or said.startswith("here: ")


def test_a_transcript_shows_the_tools() -> None:
    parts = (Part("python", "6*7"), Part("python_output", "42"), Part("text", "It is 42."))
    done = Completion("q", "It is 42.", (1,), "stop", parts)
    assert done.transcript == "[6*7 = 42] It is 42."
    assert Completion("q", "plain", (1,), "stop").transcript == "plain"
    assert Completion("q", "", (1,), "length", (Part("python", "6*"),)).transcript == "[6*"
