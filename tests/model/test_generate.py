from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmkit.errors import ConfigError, ModelError
from lmkit.inference import Sampling
from lmkit.model import LMBase
from lmkit.model.generate import Piece, Writing
from lmkit.nn import Cache, KVCache
from lmkit.prompts import Completion, Message, Part, Prompt
from lmkit.text import Byte, Tiktoken, chat
from lmkit.text.encodings import CHAT_TOKENS
from lmkit_models.gpt import GPT

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


# --- several samples ------------------------------------------------------------------------------


def tiny() -> GPT:
    torch.manual_seed(0)
    model = GPT(depth=2, width=32, head_dim=8, max_len=24, tokenizer=BYTE)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


DRAWN = Sampling(temperature=1.0, max_new_tokens=8)


def test_samples_come_prompt_by_prompt_and_differ() -> None:
    model = tiny()
    done = model.generate(["ab", "c"], DRAWN, samples=3)
    assert [d.prompt for d in done] == ["ab"] * 3 + ["c"] * 3
    assert len({d.ids for d in done}) == 6
    rows = model.generate(["ab"] * 3 + ["c"] * 3, DRAWN)
    assert [d.ids for d in rows] == [d.ids for d in done]
    streamed = [""] * 6
    for row, piece in model.generate(["ab", "c"], DRAWN, True, samples=3):
        streamed[row] += piece
    assert streamed == [d.text for d in done]


def test_a_seed_repeats_its_sample_wherever_it_stands() -> None:
    model = tiny()
    one, two, three = model.generate(["ab"], DRAWN, samples=3, seeds=[5, 6, 5])
    assert one.ids == three.ids != two.ids
    other = Sampling(temperature=1.0, max_new_tokens=8, seed=9)
    assert model.generate(["c", "ab"], other, seeds=[1, 6])[1].ids == two.ids
    with pytest.raises(ModelError, match="2 seeds for 1 rows"):
        model.generate("ab", seeds=[1, 2])


def test_a_cache_that_cannot_copy_rows_reads_a_prompt_for_every_sample() -> None:
    class Own(KVCache):
        take = Cache.take

    class Holding(GPT):
        def make_cache(self, batch_size: int, length: int) -> KVCache:
            return Own(batch_size, length, layers=len(self.blocks))

    model = tiny()
    expected = model.generate(["ab", "c"], DRAWN, samples=2)
    model.__class__ = Holding
    assert model.generate(["ab", "c"], DRAWN, samples=2) == expected


# --- how a text ends ------------------------------------------------------------------------------


def test_the_id_that_ends_a_text_is_told_apart() -> None:
    (done,) = says("hello").generate("")
    assert (done.ids, done.end) == (tuple(b"hello"), END)
    (done,) = says("hello").generate("", Sampling(stop=("l",)))
    assert (done.finish, done.end) == ("stop", None)
    (done,) = says("hello").generate("", Sampling(max_new_tokens=2))
    assert (done.finish, done.end) == ("length", None)


def test_a_stop_id_ends_a_text() -> None:
    (done,) = says("hello").generate("", Sampling(stop_ids=(ord("l"), 5)))
    assert (done.text, done.finish, done.ids, done.end) == ("he", "stop", tuple(b"he"), ord("l"))
    with pytest.raises(ModelError, match="stop_ids names 300, the last id is 256"):
        says("hello").generate("", Sampling(stop_ids=(300,)))


def test_a_prompt_that_is_cut_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    model = Script([*b"abcdefgh"], max_len=8)
    model.check()
    model.seen.clear()
    with caplog.at_level(logging.WARNING):
        model.generate(["0123456789", "0"], Sampling(max_new_tokens=20))
    assert len(caplog.records) == 1
    said = caplog.records[0].getMessage()
    assert "1 of 2 prompts do not fit into the model's context of 8 tokens" in said
    assert "of the longest (11) the first 4 are not read" in said
    assert model.seen[0] == list(b"3456789")
    caplog.clear()
    model.generate(["0123456789", "0"])  # as in the next evaluation
    model.generate("0123456", Sampling(max_new_tokens=20))
    assert not caplog.records


# --- conversations and tools ----------------------------------------------------------------------


class Chatty(Byte):
    """Bytes, and the special tokens of chat."""

    def __init__(self) -> None:
        self.special_tokens = {name: 256 + i for i, name in enumerate(CHAT_TOKENS)}
        self.bos = self.eos = 256

    def vocabulary(self) -> list[bytes]:
        return [bytes([byte]) for byte in range(256)] + [name.encode() for name in CHAT_TOKENS]


CHATTY = Chatty()
MARKS = chat.tool_ids(CHATTY)
assert MARKS is not None
CALL, CALLED, GAVE, GIVEN = (
    MARKS.python_start,
    MARKS.python_end,
    MARKS.output_start,
    MARKS.output_end,
)
(TURN_END,) = chat.end_ids(CHATTY)
ASKED = Prompt(messages=(Message("user", "?"),))


class Speaker(LMBase):
    """Puts its script behind every prompt; what is forced takes the script's place."""

    def __init__(self, prompt: Prompt, script: list[int]) -> None:
        super().__init__(tokenizer=CHATTY, max_len=200)
        self.opened = len(chat.ask(CHATTY, prompt.messages)) if prompt.messages else 1
        self.script = script + [TURN_END] * 200

    def forward(self, tokens: Tensor) -> Tensor:
        following = [self.script[max(0, n - self.opened + 1)] for n in range(tokens.shape[1])]
        one_hot = nn.functional.one_hot(torch.tensor(following), 267)
        return one_hot.float().expand(len(tokens), -1, -1)


def answer(*script: bytes | int, prompt: Prompt = ASKED, **sampling: int) -> Completion:
    ids = [i for part in script for i in ([part] if isinstance(part, int) else part)]
    (done,) = Speaker(prompt, ids).generate(prompt, Sampling(**sampling))  # type: ignore[arg-type]
    return done


def test_a_turn_ends_with_its_mark() -> None:
    done = answer(b"yes")
    assert (done.text, done.finish, done.end) == ("yes", "stop", TURN_END)
    assert done.parts == (Part("text", "yes"),)


def test_a_call_is_answered_and_its_tokens_are_known() -> None:
    # the script's three letters in place of <gave>42<given> are never asked for
    done = answer(b"is ", CALL, b"6*7", CALLED, b"####", b"!")
    assert done.parts == (
        Part("text", "is "),
        Part("python", "6*7"),
        Part("python_output", "42"),
        Part("text", "!"),
    )
    assert done.text == "is !"
    assert [done.ids[i] for i in sorted(done.forced)] == [GAVE, *b"42", GIVEN]
    assert min(done.forced) == done.ids.index(CALLED) + 1
    rendered, _ = chat.render(CHATTY, (*ASKED.messages, Message("assistant", done.parts)))
    asked = chat.ask(CHATTY, ASKED.messages)
    assert rendered == [*asked, *done.ids, TURN_END]


def test_without_a_result_the_model_goes_on() -> None:
    done = answer(CALL, b"6/0", CALLED, b"hm")
    assert done.parts == (Part("python", "6/0"), Part("text", "hm"))
    assert not done.forced


def test_an_answer_cut_within_a_tool_is_cut() -> None:
    done = answer(CALL, b"6*7", CALLED, max_new_tokens=7)
    assert (len(done.ids), done.finish, done.text) == (7, "length", "")
    assert done.parts == (Part("python", "6*7"), Part("python_output", "4"))
    done = answer(CALL, b"6*7", CALLED, max_new_tokens=3)
    assert done.parts == (Part("python", "6*"),)


def test_what_only_a_tool_may_say_is_no_part_of_its_own() -> None:
    done = answer(b"a", GAVE, b"42", GIVEN, b"b")
    assert done.parts == (Part("text", "a42b"),)
    assert not done.forced


def test_special_tokens_are_no_text() -> None:
    user_start = CHATTY.special_tokens["<|user_start|>"]
    assert answer(b"a", user_start, b"b").text == "ab"
    done = answer(b"a", CALL, b"1+1", CALLED, b"b", prompt=Prompt(text=""))
    assert done.parts == (Part("text", "a1+1b"),)  # a plain text has no calculator
    assert not done.forced


def test_a_stop_string_does_not_count_inside_a_call() -> None:
    model = Speaker(ASKED, [CALL, *b"6*7", CALLED, *b"####", *b"a*b"])
    (done,) = model.generate(ASKED, Sampling(stop=("*",)))
    assert (done.text, done.finish) == ("a", "stop")


def test_pieces_show_tools_and_a_stream_the_text_alone() -> None:
    model = Speaker(ASKED, [*b"a", CALL, *b"6*7", CALLED, *b"####", *"é".encode()])
    pieces = list(Writing(model, [ASKED], Sampling()).pieces())
    assert pieces == [
        Piece(0, "text", "a"),
        *[Piece(0, "python", letter) for letter in "6*7"],
        *[Piece(0, "python_output", letter) for letter in "42"],
        Piece(0, "text", "é"),
    ]
    assert list(model.generate(ASKED, stream=True)) == [(0, "a"), (0, "é")]


def test_a_character_that_a_mark_breaks_off_is_shown_as_such() -> None:
    done = answer("é".encode()[:1], CALL, b"1", CALLED)
    assert done.parts[0] == Part("text", "\ufffd")


def test_a_turn_that_goes_over_into_the_next_document_has_not_ended() -> None:
    tokenizer = Tiktoken("python4k", chat="nanochat")

    class Restless(LMBase):
        """Writes bos after whatever it reads."""

        def __init__(self) -> None:
            super().__init__(tokenizer=tokenizer, max_len=64)

        def forward(self, tokens: Tensor) -> Tensor:
            wanted = torch.full_like(tokens, tokenizer.bos)
            return torch.nn.functional.one_hot(wanted, tokenizer.vocab_size).float()

    model = Restless()
    (turn,) = model.generate([{"messages": [{"role": "user", "content": "a"}]}])
    assert (turn.finish, turn.end, turn.ids) == ("length", tokenizer.bos, ())
    (text,) = model.generate(["a"])
    assert text.finish == "stop"


def test_some_rows_at_once_and_guesses_ahead_change_no_text() -> None:
    torch.manual_seed(0)
    model = GPT(depth=1, width=16, head_dim=8, tokenizer=BYTE, max_len=48)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    prompts = ["abcabcabc", "", "xyzxyz, and more", "q"]
    plain = Sampling(max_new_tokens=20)
    stop = model.generate(prompts, plain)[0].text[5:7]
    plain = Sampling(max_new_tokens=20, stop=(stop,))
    expected = model.generate(prompts, plain)
    assert expected[0].finish == "stop"
    for options in ({"batch_size": 2}, {"lookup": 5}, {"batch_size": 3, "lookup": 2}):
        assert model.generate(prompts, plain, **options) == expected  # type: ignore[call-overload]
    drawn = Sampling(temperature=1.0, max_new_tokens=9, seed=5)
    several = model.generate(prompts, drawn, samples=2)
    assert model.generate(prompts, drawn, samples=2, batch_size=3) == several
    with pytest.raises(ConfigError, match="0 rows at once"):
        model.generate(prompts, batch_size=0)
    with pytest.raises(ConfigError, match="lookup is for the likeliest ids only"):
        model.generate(prompts, drawn, lookup=2)


def test_a_batch_size_holds_the_rows_of_a_step() -> None:
    rows = []

    class Watched(GPT):
        def logits(self, tokens: Tensor, *more: Any, **options: Any) -> Tensor:
            rows.append(len(tokens))
            return super().logits(tokens, *more, **options)

    model = Watched(depth=1, width=16, head_dim=8, tokenizer=BYTE, max_len=16)
    model.check()
    rows.clear()
    model.generate(["a", "b", "c", "d", "e"], Sampling(max_new_tokens=2), batch_size=2)
    assert rows == [2, 2, 2, 2, 1, 1]
