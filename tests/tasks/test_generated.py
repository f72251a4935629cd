"""Problems from their numbers: random access, disjoint by content, pinned by a digest."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.data.holdout import Split
from lmkit.errors import ConfigError, DataError
from lmkit.tasks.arithmetic import Arithmetic
from lmkit.tasks.echo import Echo
from lmkit.tasks.format import Format
from lmkit.tasks.generated import Draw, Generated
from lmkit.tasks.spelling import Spelling

# Cached tokens and resumed runs go by fingerprints: whoever changes what a seed gives raises the
# class's `version`, and then these.
PINNED = {
    "Arithmetic": (1, "6294e7fe61c80efe"),
    "Spelling": (1, "f39a1090b20029d0"),
    "Echo": (1, "ab8d4caa8265cb24"),
    "Format": (1, "c8895711ab77a26b"),
}
KINDS: list[type[Generated]] = [Arithmetic, Spelling, Echo, Format]


def contents(task: Generated, split: Split) -> set[tuple[str, ...]]:
    """What some problems are about, whatever the order: their questions, or the sum itself."""
    problems = task.problems(split)[:200]
    if isinstance(task, Arithmetic):
        sums = (problem.solution.text.partition("=")[0] for problem in problems)
        return {tuple(sorted(numbers.split())) for numbers in sums}
    return {tuple(sorted(problem.messages[0].text.split())) for problem in problems}


def digest_of(task: Generated) -> str:
    some = [*task.problems("train")[:50], *task.problems("validation")[:10]]
    text = "\n".join(f"{problem.messages} {problem.solution} {problem.answer}" for problem in some)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("kind", KINDS)
def test_the_problems_of_a_seed_are_pinned(kind: type[Generated]) -> None:
    task = kind()
    assert (task.version, digest_of(task)) == PINNED[kind.__name__]


def test_the_problems_with_steps_are_pinned() -> None:
    task = Arithmetic(digits=3, tools=False, steps=True)
    assert (task.version, digest_of(task)) == (2, "89a1b2faee8ad482")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(seeds=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)))
def test_no_content_is_on_both_sides_whatever_the_seeds(
    kind: type[Generated], seeds: tuple[int, int]
) -> None:
    trained, measured = kind(seed=seeds[0]), kind(seed=seeds[1])
    assert not contents(trained, "train") & contents(measured, "validation")


def test_other_tools_and_wordings_and_the_other_order_are_the_same_sum() -> None:
    told = {"digits": 1, "wordings": ["story"], "validation": 0}
    trained = contents(Arithmetic(tools=False, **told), "train")
    assert not trained & contents(Arithmetic(digits=2), "validation")
    assert trained & contents(Arithmetic(digits=2), "train")


@given(st.integers(-500, 499))
def test_any_problem_is_at_hand_by_its_number(index: int) -> None:
    problems = Echo(train=500).problems("train")
    assert problems[index] == list(problems[index % 500 :][:1])[0]
    assert problems[index].at == f"echo: train {index % 500}"


def test_a_number_that_is_not_there() -> None:
    problems = Echo(train=5, validation=2).problems("all")
    assert len(problems[3:]) == 4
    with pytest.raises(IndexError):
        problems[7]


def test_more_problems_begin_with_the_same_ones() -> None:
    assert Echo(train=10).problems("train")[:] == Echo(train=20).problems("train")[:10]


def test_another_seed_and_another_size_are_other_fingerprints() -> None:
    tasks = [Echo(), Echo(seed=1), Echo(train=10), Echo(validation=10), Echo(length=2)]
    assert len({task.fingerprint() for task in tasks}) == len(tasks)
    assert Echo(name="again").fingerprint() == Echo().fingerprint()
    assert Echo(name="again").name == "again"


def test_a_size_below_0() -> None:
    with pytest.raises(ConfigError, match="validation is -1") as caught:
        Echo(validation=-1)
    assert caught.value.key == "validation"


def test_too_few_contents_for_both_sides(tmp_path) -> None:
    (tmp_path / "words.txt").write_text("one\n")
    task = Spelling(words=str(tmp_path / "words.txt"))
    sides = [task.problems("train"), task.problems("validation")]
    with pytest.raises(DataError, match="Spelling has no problem for (train|validation)"):
        print(sides[0][0], sides[1][0])


@given(st.integers(1, 1000), st.integers())
def test_a_draw_is_below_its_limit_and_repeats(limit: int, key: int) -> None:
    first, second = Draw(key), Draw(key)
    drawn = [first.below(limit) for _ in range(5)]
    assert drawn == [second.below(limit) for _ in range(5)]
    assert all(0 <= value < limit for value in drawn)


def test_draws_are_even() -> None:
    counts = [0] * 10
    for number in range(5000):
        counts[Draw(number).below(10)] += 1
    assert min(counts) > 400
    assert max(counts) < 600


def test_a_sample_has_no_place_twice() -> None:
    assert sorted(Draw(1).sample(range(20), 20)) == list(range(20))
