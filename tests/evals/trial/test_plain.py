"""What arguments and results become on their way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.evals.execution import Limits, Verdict, run_tests
from lmkit.evals.trial import plain


def verdict(program: str, tests: str = "assert double(3) == 6") -> Verdict:
    return run_tests(program, tests, "double", limits=Limits(wall_seconds=120))


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
hashable = st.recursive(
    scalars | st.binary() | st.complex_numbers(allow_nan=False),
    lambda inner: st.tuples(inner) | st.frozensets(inner),
    max_leaves=4,
)
data = st.recursive(
    hashable | st.sets(hashable),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(hashable, inner),
    max_leaves=8,
)


@given(data)
@settings(max_examples=50)
def test_plain_data_arrives_as_it_was(value: object) -> None:
    sent = plain.decode(json.loads(json.dumps(plain.encode(value))))
    assert sent == value
    assert type(sent) is type(value)


@pytest.mark.parametrize(
    ("expression", "seen"),
    [
        ("collections.Counter('aab')", "== {'a': 2, 'b': 1}"),
        ("collections.namedtuple('P', 'x y')(1, 2)", "== (1, 2)"),
        ("decimal.Decimal('0.5')", "== 0.5"),
        ("fractions.Fraction(4, 2)", "== 2"),
        ("float('nan')", "!= 0"),
        ("10 ** 5000", "== 10 ** 5000"),
        ("'\\ud800'", "== '\\ud800'"),
        ("range(3)", "!= [0, 1, 2]"),
        ("map(str, [1, 2])", "!= ['1', '2']"),
    ],
)
def test_what_is_nearly_plain_equals_what_it_equals_in_python(expression: str, seen: str) -> None:
    program = f"import collections, decimal, fractions\ndef double(x): return {expression}"
    assert verdict(program, f"assert double(0) {seen}") == Verdict("passed")


def test_an_iterator_can_be_read() -> None:
    program = "def double(x): return (n + n for n in x)"
    assert verdict(program, "assert tuple(double([1, 2])) == (2, 4)") == Verdict("passed")
