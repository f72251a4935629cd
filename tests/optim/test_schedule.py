"""Schedules: laws that hold for every setting, and the few values that a reader can check."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lmkit.config.registry import Spec
from lmkit.errors import ConfigError
from lmkit.optim.schedule import (
    Constant,
    InverseSquareRoot,
    Schedule,
    WarmupCosine,
    WarmupStableDecay,
    make_schedule,
)

lengths = st.one_of(st.floats(0.001, 0.99), st.integers(1, 2000))
floors = st.floats(0, 1)
steps = st.integers(1, 5000)
schedules = st.one_of(
    st.builds(Constant, lengths, steps=steps),
    st.builds(WarmupCosine, lengths, floors, steps=steps),
    st.builds(WarmupStableDecay, lengths, st.floats(0.001, 1), floors, steps=steps),
    st.builds(InverseSquareRoot, lengths, steps=steps),
)


@given(schedules, st.floats(0, 1))
def test_a_factor_lies_between_0_and_1(schedule: Schedule, progress: float) -> None:
    assert 0 <= schedule(progress) <= 1


@given(schedules)
def test_the_first_step_has_a_rate(schedule: Schedule) -> None:
    assert schedule(0.0) > 0


@given(
    st.sampled_from([Constant, WarmupCosine, WarmupStableDecay, InverseSquareRoot]),
    lengths, steps, st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
def test_warm_up_rises(kind: Callable, warmup: float, steps: int, a: float, b: float) -> None:
    share = min(1.0, warmup if warmup < 1 else warmup / steps)
    if kind is WarmupStableDecay:
        assume(share <= 0.5)  # its fall begins there
    schedule = kind(warmup, steps=steps)
    low, high = sorted((a * share, b * share))
    assert schedule(low) <= schedule(high) + 1e-9


@given(lengths, floors, steps)
def test_the_end_is_the_floor(warmup: float, floor: float, steps: int) -> None:
    assume(warmup < 1 or warmup < steps)  # else there is no time to fall
    for kind in (WarmupCosine, WarmupStableDecay):
        assert kind(warmup, floor=floor, steps=steps)(1.0) == pytest.approx(floor)


@given(schedules, st.floats(0, 1))
def test_nothing_jumps(schedule: Schedule, progress: float) -> None:
    near = min(1.0, progress + 1e-9)
    # the steepest slope here is that of a decay over 0.001 of a stage, or a warm-up of 1 in 5000
    assert abs(schedule(near) - schedule(progress)) <= 1e-9 * 5001 + 1e-12


def test_what_they_give_in_ten_steps() -> None:
    def curve(schedule: Schedule) -> list[float]:
        return [round(schedule(step / 10), 3) for step in range(10)]

    assert curve(Constant(steps=10)) == [1.0] * 10
    assert curve(Constant(4, steps=10))[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert curve(WarmupStableDecay(2, 0.5, steps=10)) == [
        0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2,
    ]  # fmt: skip
    assert WarmupCosine(0, floor=0.1, steps=10)(0.5) == pytest.approx(0.55)
    assert InverseSquareRoot(0.1, steps=100)(0.4) == pytest.approx(0.5)


def test_shares_and_steps_say_the_same() -> None:
    for progress in (0.0, 0.05, 0.3, 0.9):
        by_share = WarmupStableDecay(0.1, 0.25, steps=200)(progress)
        assert WarmupStableDecay(20, 50, steps=200)(progress) == pytest.approx(by_share)


def test_a_short_trial_sees_the_first_steps_of_the_long_run() -> None:
    short, long = WarmupCosine(40, steps=2), WarmupCosine(40, steps=4000)
    assert [short(0), short(1 / 2)] == pytest.approx([long(0), long(1 / 4000)])


def test_decay_1_is_the_whole_stage() -> None:
    assert WarmupStableDecay(0, decay=1.0, steps=100)(0.25) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(Constant, {"warmup": -1}), (WarmupCosine, {"floor": 1.5}), (WarmupStableDecay, {"decay": 0}),
     (WarmupStableDecay, {"floor": -0.1}), (InverseSquareRoot, {"warmup": 0})],
)  # fmt: skip
def test_a_wrong_setting_is_named(kind: Callable, wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        kind(**wrong, steps=10)


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("own_schedules")
    monkeypatch.setitem(__import__("sys").modules, "own_schedules", module)
    return module


def test_a_spec_is_told_the_steps() -> None:
    schedule = make_schedule({"class": "lmkit.optim.schedule.WarmupCosine", "warmup": 5}, steps=50)
    assert schedule(0.0) == pytest.approx(1 / 5)


def test_any_function_of_progress_will_do(own_module: ModuleType) -> None:
    def saw(progress: float, teeth: int = 1) -> float:
        return math.ceil(progress * teeth) - progress * teeth

    own_module.saw = saw  # type: ignore[attr-defined]
    assert make_schedule("own_schedules.saw", steps=9)(0.25) == 0.75
    assert make_schedule({"class": "own_schedules.saw", "teeth": "2"}, steps=9)(0.25) == 0.5
    with pytest.raises(ConfigError, match=r"teeth"):
        make_schedule({"class": "own_schedules.saw", "tooth": 2}, steps=9)


def test_what_gives_no_number_is_no_schedule(own_module: ModuleType) -> None:
    own_module.broken = lambda progress: None  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="no schedule"):
        make_schedule(Spec("own_schedules.broken"), steps=9)


def test_a_warm_up_that_does_not_end_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        WarmupCosine(123, steps=6)
    (told,) = (record.message for record in caplog.records)
    assert told.startswith("the warm-up of 123 steps is longer than its stage of 6: no rate gets")
    assert told.endswith("beyond 0.049 of its own")
    caplog.clear()
    WarmupCosine(6, steps=6)
    WarmupCosine(0.9, steps=6)
    assert not caplog.records


def test_the_steps_are_the_stages() -> None:
    with pytest.raises(ConfigError, match=r"the stage's steps; leave steps out"):
        make_schedule({"class": "lmkit.optim.schedule.WarmupCosine", "steps": 5}, steps=50)
