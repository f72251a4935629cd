"""Words to spell and letters to count: the solution's steps, and which answers are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lmkit.errors import ConfigError, DataError
from lmkit.evals.task import Problem
from lmkit.inference.tools import calculate
from lmkit.prompts import Completion, Message
from lmkit.tasks.spelling import Spelling, letter_by_letter
from lmkit.tasks.words import read_words

SPELL = Problem((Message("user", "Spell naïve."),), answer="n-a-ï-v-e")
COUNT = Problem((Message("user", "How many r are in berry?"),), answer="2")


def score(problem: Problem, text: str) -> float:
    return Spelling().score(problem, Completion("", text, (), "stop"))


def test_the_letters_are_gone_through_one_by_one() -> None:
    assert letter_by_letter("berry", "r") == "b, e, r (1), r (2), y"
    assert letter_by_letter("naïve", "z") == "n, a, ï, v, e"


def test_the_calculator_counts_what_was_counted_by_hand() -> None:
    counted = 0
    for problem in Spelling(["count"]).problems("train")[:80]:
        steps, call, output, last = problem.solution.parts
        _, word, _, letter, _ = call.text.split("'")
        assert call.text == f"'{word}'.count('{letter}')"
        assert steps.text == f"{letter_by_letter(word, letter)}\n"
        assert calculate(call.text) == output.text == problem.answer
        assert last.text == f"The count is {problem.answer}."
        assert {word, letter} <= set(re.findall(r"\w+", problem.messages[0].text))
        counted += int(problem.answer)
    assert counted > 40  # most letters that are asked for are there


def test_without_tools_and_steps_there_is_the_count_alone() -> None:
    problem = Spelling(["count"], tools=False, steps=False).problems("train")[0]
    assert problem.solution.text == f"The count is {problem.answer}."
    assert [part.type for part in problem.solution.parts] == ["text"]


def test_both_kinds_keep_a_word_on_its_side() -> None:
    spelled = {problem.answer for problem in Spelling(["spell"]).problems("train")[:600]}
    counted = Spelling(["count"], validation=600).problems("validation")
    words = {problem.solution.parts[1].text.split("'")[1] for problem in counted}
    assert len(spelled) > 300
    assert len(words) > 30
    assert not spelled & {"-".join(word) for word in words}


@pytest.mark.parametrize(
    "said",
    [
        "n-a-ï-v-e",
        "N-A-Ï-V-E",
        "n, a, ï, v, e",
        "n a ï v e",
        "It is spelled: n-a-ï-v-e.",
        " n-a-ï-v-e\n",
    ],
)
def test_a_word_that_is_spelled(said: str) -> None:
    assert score(SPELL, said) == 1.0


@pytest.mark.parametrize("said", ["naïve", "n-a-i-v-e", "na-ï-v-e", "n-a-ï-v", "n-a-ï-v-e-e", ""])
def test_a_word_that_is_not(said: str) -> None:
    assert score(SPELL, said) == 0.0


def test_the_last_number_is_the_count() -> None:
    assert score(COUNT, "b, e, r (1), r (2), y\nThe count is 2.") == 1.0
    assert score(COUNT, "b, e, r (1), r (2), y (3)") == 0.0
    assert score(COUNT, "two") == 0.0


def test_words_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(f"kw{c}" for c in "abcdefghijklmnopqrstuv"))
    task = Spelling(["spell"], words="words.txt", folder=str(tmp_path))
    assert all(problem.answer.startswith("k-w-") for problem in task.problems("all")[:50])
    (tmp_path / "words.txt").write_text("\n".join(f"kw{c}" for c in "abcdefghijklmnopqrstu"))
    assert Spelling(["spell"], words="words.txt", folder=str(tmp_path)).fingerprint() != (
        task.fingerprint()
    )


def test_the_words_of_the_package_are_different_and_normal() -> None:
    words = read_words()
    assert len(words) == len(set(words)) == 676
    assert sum(not word.isascii() for word in words) > 20


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("one\n\ntwo words\n", "words.txt:3: 'two words' is not a word of letters only; write one"),
        ("a-b", "words.txt:1: 'a-b' is not"),
        ("\n \n", "words.txt: no word in it"),
    ],
)
def test_a_file_of_something_else(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(DataError, match=re.escape(what)):
        read_words("words.txt", str(tmp_path))


def test_a_word_is_taken_once_and_composed(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cafe\u0301\ncaf\u00e9\n  tea \n", encoding="utf-8")
    assert list(read_words(str(tmp_path / "words.txt"))) == ["caf\u00e9", "tea"]


def test_an_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="kinds has no 'spel'; did you mean 'spell'?"):
        Spelling(["spel"])
