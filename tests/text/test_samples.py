"""From prompts to ids and masks: the rules of the mask, of the end mark and of trimming."""

from __future__ import annotations

import pytest

from lmkit.errors import DataError, TokenizerError
from lmkit.prompts import Message, Prompt
from lmkit.text import chat
from lmkit.text.samples import Sample, encode_prompt, trim
from lmkit.text.tokenizer import Byte, Tiktoken

END = "<|endoftext|>"
BYTE = Byte()


class TwoMarks(Byte):
    """A tokenizer whose bos and eos differ."""

    eos = 256
    bos = 257

    def vocabulary(self) -> list[bytes]:
        return [*super().vocabulary(), b"<|bos|>"]


def shown(sample: Sample) -> tuple[str, str]:
    """The text, and one mark for each token: ^ trained, . not."""
    text = BYTE.decode(sample.ids).replace(END, "|")
    return text, "".join(".^"[int(flag)] for flag in sample.mask)


def test_prompt_and_truth() -> None:
    sample = encode_prompt(BYTE, Prompt(prompt="ab", truth="cd"))
    assert shown(sample) == ("|abcd|", ".^^^^^")
    assert sample.trained == 5
    only_truth = encode_prompt(BYTE, Prompt(prompt="ab", truth="cd"), include_prompts=False)
    assert shown(only_truth) == ("|abcd|", "...^^^")
    assert shown(encode_prompt(BYTE, Prompt(prompt="ab"))) == ("|ab|", ".^^^")
    assert shown(encode_prompt(BYTE, Prompt(prompt="ab"), include_prompts=False))[1] == "...^"


def test_an_end_mark_in_the_truth_is_not_doubled() -> None:
    sample = encode_prompt(BYTE, Prompt(prompt="a", truth=f"b{END}"))
    assert shown(sample) == ("|ab|", ".^^^")


def test_special_tokens_in_text_are_text_unless_asked_for() -> None:
    prompt = Prompt(prompt="a", truth=f"b{END}c")
    assert list(encode_prompt(BYTE, prompt).ids).count(256) == 2
    assert list(encode_prompt(BYTE, prompt, allow_special=True).ids).count(256) == 3
    text = Prompt(text=f"b{END}c")
    assert list(encode_prompt(BYTE, text).ids).count(256) == 1
    assert list(encode_prompt(BYTE, text, allow_special=True).ids).count(256) == 2


def test_text_is_always_trained_and_ends_where_marks_differ() -> None:
    for include in (True, False):
        assert shown(encode_prompt(BYTE, Prompt(text="ab"), include_prompts=include)) == (
            "|ab",
            ".^^",
        )
    marked = encode_prompt(TwoMarks(), Prompt(text="ab"))
    assert list(marked.ids) == [257, 97, 98, 256]
    assert list(marked.mask) == [False, True, True, True]


def test_prompt_and_truth_are_encoded_apart() -> None:
    # a generated answer follows the prompt's own ids, so training must not merge across
    gpt2 = Tiktoken()
    sample = encode_prompt(gpt2, Prompt(prompt="hel", truth="lo"))
    assert list(sample.ids) == [gpt2.bos, *gpt2.encode("hel"), *gpt2.encode("lo"), gpt2.eos]


def test_empty_texts() -> None:
    assert shown(encode_prompt(BYTE, Prompt(text=""))) == ("|", ".")
    assert shown(encode_prompt(BYTE, Prompt(prompt="", truth=""))) == ("||", ".^")


def test_trim_keeps_max_len_inputs_and_the_last_target() -> None:
    sample = encode_prompt(BYTE, Prompt(prompt="abcd", truth="ef"), include_prompts=False)
    assert trim(sample, 7) is sample
    assert shown(trim(sample, 6)) == ("|abcdef", ".....^^")
    assert shown(trim(sample, 5)) == ("|abcde", ".....^")
    assert trim(sample, 4).trained == 0


TALK = (
    Message("system", "Be short."),
    Message("user", "Hi"),
    Message("assistant", "Yo"),
    Message("user", "?"),
    Message("assistant", "!"),
)


def test_messages_train_what_the_assistant_says() -> None:
    sample = encode_prompt(BYTE, Prompt(messages=TALK), include_prompts=False)
    text, _ = shown(sample)
    assert text == "|system:\nBe short.\n\nuser:\nHi\n\nassistant:\nYo|user:\n?\n\nassistant:\n!|"
    trained = BYTE.decode(i for i, flag in zip(sample.ids, sample.mask, strict=True) if flag)
    assert trained == f"Yo{END}!{END}"
    everything = encode_prompt(BYTE, Prompt(messages=TALK))
    assert everything.trained == len(everything.ids) - 1


def test_asking_stops_where_the_assistant_speaks() -> None:
    asked = chat.ask(BYTE, TALK[:4])
    rendered, _ = chat.render(BYTE, TALK)
    assert rendered == asked + [*b"!", BYTE.eos]


def test_a_preference_is_no_sample() -> None:
    preference = Prompt(prompt="a", chosen="b", rejected="c", at="a.jsonl:5")
    with pytest.raises(DataError, match="^a.jsonl:5: a preference is two samples; .*lmkit.rl.dpo"):
        encode_prompt(BYTE, preference)
    chosen, _ = preference.pair
    assert shown(encode_prompt(BYTE, chosen, include_prompts=False)) == ("|ab|", "..^^")


def test_in_mid_training_all_of_a_conversation_is_trained() -> None:
    tokenizer = Tiktoken("gpt2", chat="nanochat")
    sample = encode_prompt(tokenizer, Prompt(messages=TALK), include_prompts=True)
    assert sample.ids[0] == tokenizer.bos
    assert sample.mask.tolist() == [False] + [True] * (len(sample.ids) - 1)


def test_errors_name_where_the_prompt_was_read() -> None:
    with pytest.raises(TokenizerError, match="^a.jsonl:3: a lone surrogate"):
        encode_prompt(BYTE, Prompt(prompt="\ud800", at="a.jsonl:3"))
    with pytest.raises(DataError, match="^a.jsonl:4: .*robot"):
        encode_prompt(BYTE, Prompt(messages=(Message("robot", ""),), at="a.jsonl:4"))
    with pytest.raises(TokenizerError, match="^a lone surrogate"):
        encode_prompt(BYTE, Prompt(prompt="\ud800"))
