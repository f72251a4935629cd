from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmkit.errors import DataError, NumericError
from lmkit.evals import Problem
from lmkit.evals import choice as choice_module
from lmkit.evals.choice import answer_scores, letter_scores
from lmkit.prompts import Message
from lmkit.text import Byte, Tiktoken, chat
from lmkit_models.gpt import GPT

TINY = {"vocab_size": 257, "depth": 2, "width": 16, "head_dim": 8}


def tiny(max_len: int = 64) -> GPT:
    torch.manual_seed(0)
    model = GPT(tokenizer=Byte(), max_len=max_len, **TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def problem(question: str, *choices: str) -> Problem:
    return Problem((Message("user", question),), choices=choices, at="f.jsonl:1")


def test_the_mean_over_the_tokens_of_the_answer(rule: Any) -> None:
    model = rule({"q": {"ab": 0.25, "ac": 0.25, "d": 0.5}})
    (scores,) = answer_scores(model, [problem("q", "ab", "d", "z")])
    half = torch.tensor(0.5).log().item()
    assert scores[:2] == pytest.approx([(half + half) / 2, half], abs=1e-4)
    assert scores[2] < -25


def test_it_is_the_models_own_likelihood() -> None:
    model = tiny()
    asked = chat.ask(Byte(), (Message("user", "2+2?"),))
    ids = torch.tensor([[*asked, *b"four"]])
    log_probs = model.logits(ids)[0, len(asked) - 1 : -1].log_softmax(-1)
    expected = log_probs.gather(1, ids[0, len(asked) :, None]).mean().item()
    assert answer_scores(model, [problem("2+2?", "four", "5")])[0][0] == pytest.approx(expected)


def test_letters_share_all_probability() -> None:
    model = tiny()
    asked = chat.ask(Byte(), (Message("user", "2+2?"),))
    logits = model.logits(torch.tensor([asked]))[0, -1]
    (scores,) = letter_scores(model, [problem("2+2?", "A", "B", "C")])
    assert sum(torch.tensor(scores).exp()) == pytest.approx(1)
    assert scores == pytest.approx(logits[[*b"ABC"]].log_softmax(-1).tolist())


@pytest.mark.parametrize("scores_of", [answer_scores, letter_scores])
@given(lengths=st.lists(st.integers(0, 40), min_size=2, max_size=5))
def test_a_batch_changes_nothing(scores_of: Any, lengths: list[int]) -> None:
    model = tiny()
    problems = [problem("q" * length + "?", "A", "B") for length in lengths]
    together = scores_of(model, problems)
    alone = [scores_of(model, [each])[0] for each in problems]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("scores_of", [answer_scores, letter_scores])
def test_many_logits_are_held_in_turns(scores_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [problem("q" * n + "?", "A", "B") for n in range(4)]
    whole = scores_of(tiny(), problems)
    monkeypatch.setattr(choice_module, "MAX_LOGITS", 40 * 257)
    model = tiny()
    rows = []
    model.token_embedding.register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
    parts = scores_of(model, problems)
    assert max(rows) == 1
    assert [x for of_one in parts for x in of_one] == pytest.approx(
        [x for of_one in whole for x in of_one], abs=1e-5
    )


def test_the_end_of_what_is_too_long_is_read() -> None:
    model = tiny(max_len=32)
    asked = [*chat.ask(Byte(), (Message("user", "x" * 50),))]
    (letters,) = letter_scores(model, [problem("x" * 50, "A", "B")])
    logits = model.logits(torch.tensor([asked[-32:]]))[0, -1]
    assert letters == pytest.approx(logits[[*b"AB"]].log_softmax(-1).tolist())
    (answers,) = answer_scores(model, [problem("x" * 50, "yes", "y" * 80)])
    ids = torch.tensor([[*asked, *b"yes"][-33:]])
    log_probs = model.logits(ids[:, :-1])[0, -3:].log_softmax(-1)
    expected = log_probs.gather(1, ids[0, -3:, None]).mean().item()
    assert answers[0] == pytest.approx(expected)


def test_no_gradients_no_dropout_and_the_mode_comes_back() -> None:
    model = tiny()
    seen = []
    model.token_embedding.register_forward_hook(
        lambda *_: seen.append((torch.is_grad_enabled(), model.training))
    )
    for scores_of in (answer_scores, letter_scores):
        scores_of(model, [problem("q", "A", "B")])
    assert set(seen) == {(False, False)}
    assert model.training


def test_a_letter_is_one_token() -> None:
    model = tiny()
    with pytest.raises(DataError, match=r"f\.jsonl:1: the choice 'AB' is 2 tokens.*'choice'"):
        letter_scores(model, [problem("q", "AB", "C")])
    with pytest.raises(DataError, match="two choices have the same letter"):
        letter_scores(model, [problem("q", "A", "A")])


def test_an_empty_choice_says_nothing() -> None:
    with pytest.raises(DataError, match=r"f\.jsonl:1: a choice is empty"):
        answer_scores(tiny(), [problem("q", "", "C")])


@pytest.mark.parametrize("scores_of", [answer_scores, letter_scores])
def test_weights_that_are_not_finite(scores_of: Any) -> None:
    model = tiny()
    torch.nn.init.constant_(model.head.weight, torch.nan)
    with pytest.raises(NumericError, match="not finite"):
        scores_of(model, [problem("q", "A", "B")])


def test_ids_that_only_pad_the_vocabulary_count_for_nothing() -> None:
    tokenizer = Tiktoken("python4k")
    torch.manual_seed(0)
    sizes = {"depth": 1, "width": 16, "head_dim": 8, "max_len": 32}
    model = GPT(tokenizer=tokenizer, vocab_size=tokenizer.vocab_size + 60, **sizes)
    torch.nn.init.normal_(model.head.weight)
    before = answer_scores(model, [problem("q", "one", "two")])
    with torch.no_grad():
        model.head.weight[tokenizer.vocab_size :] *= 9
    assert answer_scores(model, [problem("q", "one", "two")]) == before
