from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lmkit.errors import ModelError
from lmkit.inference import Sampling
from lmkit.model import LMBase
from lmkit.prompts import Message, Prompt
from lmkit.text import Byte, chat

BYTE = Byte()
END = BYTE.eos


class Script(LMBase):
    """Says what stands in its script: after token i of a text comes script[i]."""

    def __init__(self, script: list[int], max_len: int = 64) -> None:
        super().__init__(tokenizer=BYTE, max_len=max_len)
        self.script = nn.Parameter(torch.tensor(script, dtype=torch.float32))
        self.seen: list[list[int]] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen.extend(tokens.tolist())
        following = self.script[: tokens.shape[1]].long()
        return nn.functional.one_hot(following, 257).float().expand(len(tokens), -1, -1)


def says(text: str, after: int = 1, end: bool = True) -> Script:
    """A model that writes `text` after `after` tokens."""
    model = Script([0] * (after - 1) + [*text.encode(), *[END] * end] + [0] * 64)
    model.check()
    model.seen.clear()
    return model


def test_an_empty_prompt_begins_with_bos() -> None:
    model = says("hello")
    (done,) = model.generate([""])
    assert (done.prompt, done.text, done.finish) == ("", "hello", "stop")
    assert done.ids == tuple(b"hello")
    assert model.seen[0] == [BYTE.bos]


def test_the_prompt_goes_in_and_does_not_come_out() -> None:
    model = says("llo", after=3)
    (done,) = model.generate(["he"])
    assert (done.prompt, done.text) == ("he", "llo")
    assert model.seen[0] == [BYTE.bos, *b"he"]


def test_a_lone_prompt_of_any_shape() -> None:
    for prompt in ("he", {"prompt": "he"}, {"text": "he"}, Prompt(prompt="he")):
        (done,) = says("llo", after=3).generate(prompt)
        assert (done.prompt, done.text) == ("he", "llo")


def test_messages_are_asked_for_an_answer() -> None:
    model = says("x")
    messages = (Message("user", "2 + 2?"),)
    (done,) = model.generate(Prompt(messages=messages), Sampling(max_new_tokens=1))
    assert model.seen[0] == chat.ask(BYTE, messages)
    assert done.prompt == "2 + 2?"


def test_the_length_is_a_limit() -> None:
    (done,) = says("hello").generate([""], Sampling(max_new_tokens=3))
    assert (done.text, done.finish, len(done.ids)) == ("hel", "length", 3)
    assert says("hello").generate_prompts([""], 3) == ["hel"]


def test_prompts_of_several_lengths_end_at_their_own_time() -> None:
    model = says("abcdef")
    done = model.generate(["", "xx"], Sampling(max_new_tokens=5))
    assert [d.text for d in done] == ["abcde", "cdef"]
    assert [d.finish for d in done] == ["length", "stop"]


@pytest.mark.parametrize(
    ("stop", "text", "ids"),
    [
        (("lo",), "hel", 5),
        (("l",), "he", 3),
        (("lo", "el"), "h", 3),
        (("hello!",), "hello", 5),
        (("ll", "l"), "he", 3),
        (("llo", "ello"), "h", 5),
    ],
)
def test_the_text_ends_before_a_stop_string(stop: tuple[str, ...], text: str, ids: int) -> None:
    (done,) = says("hello").generate([""], Sampling(stop=stop))
    assert (done.text, done.finish, len(done.ids)) == (text, "stop", ids)


def test_a_stop_string_is_never_shown_in_part() -> None:
    pieces = list(says("one--two---three").generate("", Sampling(stop=("---",)), stream=True))
    assert "".join(piece for _, piece in pieces) == "one--two"
    # the two dashes come only when it is clear that no third follows
    assert (0, "--t") in pieces


def test_a_stream_gives_whole_characters() -> None:
    pieces = [piece for _, piece in says("aé€😀").generate("", stream=True)]
    assert pieces == ["a", "é", "€", "😀"]


@pytest.mark.parametrize("end", [False, True])
def test_an_unfinished_character_is_shown_as_such(end: bool) -> None:
    script = [*"é".encode()[:1]] + [END] * 64
    (done,) = Script(script).generate("", Sampling(max_new_tokens=2 if end else 1))
    assert done.text == "\ufffd"


def test_a_stream_equals_the_completions() -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=30, stop=("\x07",))
    prompts = ["", "abc", "defghi"]
    texts = ["", "", ""]
    for index, piece in says("hello").generate(prompts, sampling, stream=True):
        texts[index] += piece
    assert texts == [done.text for done in says("hello").generate(prompts, sampling)]


def test_generation_leaves_the_mode_and_the_gradients_alone() -> None:
    model = says("hello")
    model.dropout = nn.Dropout(0.5)
    model.frozen = nn.Dropout(0.5).eval()
    stream = model.generate("", stream=True)
    next(stream)
    assert torch.is_grad_enabled()
    assert not model.dropout.training
    stream.close()  # type: ignore[attr-defined]
    assert model.training
    assert model.dropout.training
    assert not model.frozen.training


def test_text_past_the_context_goes_on() -> None:
    model = Script([*b"abcdefgh"], max_len=8)
    (done,) = model.generate("0123456789", Sampling(max_new_tokens=12))
    assert len(done.ids) == 12
    assert max(map(len, model.seen)) == 8


def test_a_bos_ends_the_text_where_it_is_not_the_eos() -> None:
    class Marked(Byte):
        bos = 0

    model = Script([*b"ab", 0] + [1] * 60)
    model.tokenizer = Marked()
    (done,) = model.generate("")
    assert (done.text, done.finish) == ("ab", "stop")


def test_no_prompts_no_completions() -> None:
    assert says("hello").generate([]) == []


def test_a_model_without_a_tokenizer_says_so_at_once() -> None:
    model = says("hello")
    model.tokenizer = None
    with pytest.raises(ModelError, match="Script has no tokenizer"):
        model.generate("", stream=True)
