from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmkit.errors import NumericError
from lmkit.inference import Sampling
from lmkit.model import LMBase
from lmkit.nn import KVCache
from lmkit.prompts import Message, Part, Prompt
from lmkit.serve.conversation import Conversation
from lmkit.text import Byte, chat
from lmkit.text.encodings import CHAT_TOKENS
from lmkit_models.gpt import GPT
from lmkit_models.recurrent import GRULM


class Chatty(Byte):
    """Bytes, and the special tokens of chat."""

    def __init__(self) -> None:
        self.special_tokens = {name: 256 + i for i, name in enumerate(CHAT_TOKENS)}
        self.bos = self.eos = 256

    def vocabulary(self) -> list[bytes]:
        return [bytes([byte]) for byte in range(256)] + [name.encode() for name in CHAT_TOKENS]


CHATTY = Chatty()
SPECIAL = CHATTY.special_tokens
(TURN_END,) = chat.end_ids(CHATTY)


class Alphabet(LMBase):
    """Goes on with the next letter, from v to z; keeps an account of what it reads."""

    def __init__(self, max_len: int = 100, first: int = ord("v")) -> None:
        super().__init__(tokenizer=CHATTY, max_len=max_len)
        following = torch.arange(1, 268)
        following[ord("z")] = TURN_END
        following[SPECIAL["<|assistant_start|>"]] = first
        self.following = nn.Parameter(following.float())
        self.read: list[int] = []
        self.interrupt_at = -1  # Ctrl+C when so many tokens are read
        self.check()
        self.read.clear()

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        if len(self.read) == self.interrupt_at:
            raise KeyboardInterrupt
        self.read += tokens[0].tolist()
        return nn.functional.one_hot(self.following[tokens].long(), 268).float()[..., :267]

    def make_cache(self, batch_size: int, length: int) -> KVCache:
        return KVCache(batch_size, length, layers=0)

    def take_read(self) -> list[int]:
        read, self.read = self.read, []
        return read


def said(conversation: Conversation, text: str) -> str:
    return "".join(piece.text for piece in conversation.say(text))


def test_a_turn_reads_only_what_is_new() -> None:
    model = Alphabet()
    talk = Conversation(model, system="hi")
    assert said(talk, "one") == "vwxyz"
    first = chat.ask(CHATTY, [Message("system", "hi"), Message("user", "one")])
    assert model.take_read() == [*first, *b"vwxyz"]
    assert said(talk, "two") == "vwxyz"
    end, begin = SPECIAL["<|user_end|>"], SPECIAL["<|assistant_start|>"]
    new = [TURN_END, SPECIAL["<|user_start|>"], *b"two", end, begin]
    assert model.take_read() == [*new, *b"vwxyz"]
    assert talk.messages == [
        Message("system", "hi"),
        Message("user", "one"),
        Message("assistant", (Part("text", "vwxyz"),)),
        Message("user", "two"),
        Message("assistant", (Part("text", "vwxyz"),)),
    ]


def test_a_reset_forgets_all_but_the_system() -> None:
    model = Alphabet()
    talk = Conversation(model, system="hi")
    said(talk, "one")
    model.take_read()
    talk.reset()
    assert talk.messages == [Message("system", "hi")]
    said(talk, "two")
    assert model.read[0] == ord("t")  # up to there the two are the same
    assert len(talk.messages) == 3


def test_another_system_is_read_anew() -> None:
    model = Alphabet()
    talk = Conversation(model)
    said(talk, "one")
    model.take_read()
    talk.system = "be"
    said(talk, "two")
    assert model.take_read() == [*chat.ask(CHATTY, [*talk.messages[:4]]), *b"vwxyz"][1:]
    assert [message.role for message in talk.messages] == ["system", *["user", "assistant"] * 2]


def test_an_answer_that_is_closed_stays_as_far_as_it_went() -> None:
    model = Alphabet()
    talk = Conversation(model)
    pieces = talk.say("one")
    assert [next(pieces).text for _ in range(3)] == ["v", "w", "x"]
    pieces.close()
    assert talk.messages[1].text == "vwx"
    model.take_read()
    assert said(talk, "two") == "vwxyz"
    assert model.read[0] == ord("x")  # chosen and not read when it was closed
    whole = chat.ask(CHATTY, talk.messages[:3])
    assert model.take_read() == [*whole[whole.index(ord("x")) :], *b"vwxyz"]


def test_an_interrupt_keeps_the_answer_and_gives_up_the_cache() -> None:
    model = Alphabet()
    talk = Conversation(model)
    model.interrupt_at = len(chat.ask(CHATTY, [Message("user", "one")])) + 2
    with pytest.raises(KeyboardInterrupt):
        said(talk, "one")
    assert talk.messages[1].text == "vwx"
    model.interrupt_at = -1
    model.take_read()
    said(talk, "two")
    assert model.read[0] == CHATTY.bos


def test_a_question_without_an_answer_leaves_no_trace() -> None:
    talk = Conversation(Alphabet(first=TURN_END))
    assert said(talk, "one") == ""
    assert talk.messages == []
    assert talk.answer is not None
    assert talk.answer.finish == "stop"
    said(talk, "two")


@pytest.mark.parametrize(("max_new_tokens", "visible"), [(5, 4), (500, 2)])
def test_the_oldest_turns_go_when_the_context_is_full(max_new_tokens: int, visible: int) -> None:
    """Four turns fill the context; an answer of any length leaves half of it to them."""
    system = chat.ask(CHATTY, [Message("system", "hi"), Message("user", "0")])[:-4]
    turn_length = len(chat.ask(CHATTY, [Message("user", "0")])) - 1 + len(b"vwxyz") + 1
    model = Alphabet(max_len=len(system) + 4 * turn_length)
    talk = Conversation(model, Sampling(max_new_tokens=max_new_tokens), "hi")
    for turn in range(6):
        assert said(talk, str(turn)) == "vwxyz"
        read = model.take_read()
        if turn >= 4:
            oldest = turn + 1 - visible
            assert talk.unread == 2 * oldest
            # whole turns: bos, system and the mark of a turn are the same as before
            assert read[:2] == [ord(str(oldest)), SPECIAL["<|user_end|>"]]
            assert read.count(SPECIAL["<|user_start|>"]) == visible - 1
    assert len(talk.messages) == 13
    talk.reset()
    assert talk.unread == 0


def test_a_question_longer_than_the_context_is_answered(caplog: Any) -> None:
    model = Alphabet(max_len=30)
    talk = Conversation(model)
    said(talk, "one")
    assert said(talk, "x" * 50) == "vwxyz"
    assert "do not fit" in caplog.text
    assert talk.unread == 2
    assert said(talk, "two") == "vwxyz"
    assert talk.unread == 4


def test_an_answer_beyond_the_context_costs_the_cache() -> None:
    model = Alphabet(max_len=24, first=ord("a"))
    talk = Conversation(model, Sampling(max_new_tokens=100))
    assert said(talk, "one") == "abcdefghijklmnopqrstuvwxyz"
    model.take_read()
    assert said(talk, "two") == "abcdefghijklmnopqrstuvwxyz"
    assert model.read[0] == CHATTY.bos
    assert talk.unread == 2


@pytest.mark.parametrize("kind", [GPT, GRULM])
def test_what_is_kept_changes_no_answer(kind: Any) -> None:
    torch.manual_seed(0)
    sizes = {"depth": 2, "head_dim": 8} if kind is GPT else {"layers": 1}
    model = kind(tokenizer=CHATTY, width=32, max_len=256, **sizes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    sampling = Sampling(temperature=1.0, max_new_tokens=12, seed=3)
    talk = Conversation(model, sampling)
    for turn, text in enumerate(["one", "é", "three", "four"]):
        before = talk.messages
        pieces = list(talk.say(text))
        prompt = Prompt(messages=(*before, Message("user", text)))
        (alone,) = model.generate(prompt, sampling, seeds=[3 * 2**32 + turn])
        assert talk.answer == alone
        assert "".join(piece.text for piece in pieces if piece.kind == "text") == alone.text


def test_every_turn_draws_anew_and_a_seed_repeats_them() -> None:
    torch.manual_seed(0)
    model = GPT(tokenizer=CHATTY, depth=1, width=32, head_dim=8, max_len=256)
    answers = []
    for seed in (1, 1, 2):
        talk = Conversation(model, Sampling(temperature=1.0, max_new_tokens=8, seed=seed))
        answers.append([])
        for _ in range(2):
            answers[-1].append(said(talk, "same"))
            talk.reset()
    assert answers[0] == answers[1]
    assert len({*answers[0], *answers[2]}) == 4


def test_tools_stay_in_the_history() -> None:
    model = Alphabet(first=SPECIAL["<|python_start|>"])
    call = [SPECIAL["<|python_start|>"], *b"6*7", SPECIAL["<|python_end|>"]]
    with torch.no_grad():
        for token, following in zip(call, call[1:], strict=False):
            model.following[token] = following
        model.following[SPECIAL["<|output_end|>"]] = ord("y")
    talk = Conversation(model)
    kinds = [piece.kind for piece in talk.say("one")]
    assert kinds == [*["python"] * 3, *["python_output"] * 2, *["text"] * 2]
    assert talk.messages[1].parts == (
        Part("python", "6*7"),
        Part("python_output", "42"),
        Part("text", "yz"),
    )
    model.take_read()
    said(talk, "two")
    assert model.read[0] == TURN_END


def test_an_error_leaves_the_conversation_as_it_was() -> None:
    model = Alphabet()
    talk = Conversation(model)
    said(talk, "one")
    before = talk.messages
    following = model.following.clone()
    model.forward = lambda tokens, cache: torch.full((1, 1, 267), torch.nan)  # type: ignore[method-assign]
    with pytest.raises(NumericError):
        said(talk, "two")
    assert talk.messages == before
    del model.forward
    assert torch.equal(model.following, following)
    assert said(talk, "two") == "vwxyz"
