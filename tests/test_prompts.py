"""prompts: one shape each, and every wrong mapping named with its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.errors import DataError
from lmkit.prompts import Message, Prompt


def test_of_reads_the_three_shapes_and_a_plain_string() -> None:
    assert Prompt.of("2+2=") == Prompt(prompt="2+2=")
    assert Prompt.of({"prompt": "2+2=", "truth": "4"}) == Prompt(prompt="2+2=", truth="4")
    assert Prompt.of({"text": "a document"}) == Prompt(text="a document")
    said = {"role": "user", "content": "hello"}
    assert Prompt.of({"messages": [said]}) == Prompt(messages=(Message("user", "hello"),))
    assert Prompt.of({"prompt": "", "truth": "x"}).truth == "x"
    ready = Prompt(text="x")
    assert Prompt.of(ready) is ready


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
            st.sampled_from(["prompt", "truth", "text", "messages", "role", "content", "x"]),
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
