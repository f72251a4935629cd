"""What counts as an anomaly, what is remembered of the steps before, and when a policy gives up."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lmkit.errors import ConfigError
from lmkit.model import Loss
from lmkit.train.anomaly import Anomalies, Anomaly, Detector, OnAnomaly


def judge(detector: Detector, loss: float, grad_norm: float = 1.0) -> str:
    """The kind of anomaly that a step is; empty for none."""
    found = detector.judge(Loss(torch.tensor(loss * 4), 4, 0), grad_norm)
    return found.kind if found else ""


def calm(detector: Detector, steps: int = 40) -> None:
    for step in range(steps):
        assert judge(detector, 3.0 + 0.1 * math.sin(step), 1.0 + 0.05 * math.cos(step)) == ""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("spikes", [None, 6.0])
def test_one_that_is_not_finite_costs_one_step(bad: float, spikes: float | None) -> None:
    detector = Detector(spikes)
    assert judge(detector, bad) == "not_finite"  # in the very first step too
    calm(detector)
    assert judge(detector, 3.0, bad) == "not_finite"
    assert judge(detector, bad) == "not_finite"
    calm(detector)


def test_a_spike_is_one_of_loss_or_norm_and_upwards_only() -> None:
    detector = Detector(6.0)
    calm(detector)
    assert judge(detector, 4.5) == "spike"
    assert judge(detector, 3.0, 9.0) == "spike"
    assert judge(detector, 1.0, 0.1) == ""
    assert judge(Detector(), 1e30) == ""  # off by default


def test_a_level_that_has_risen_is_the_normal_one_after_half_a_window() -> None:
    detector = Detector(6.0, window=16)
    calm(detector)
    kinds = [judge(detector, 5.0 + 0.01 * step) for step in range(12)]
    assert kinds[0] == "spike"
    assert kinds[-1] == ""


def test_a_loss_that_hardly_moves_has_no_spikes_of_a_percent() -> None:
    detector = Detector(8.0)
    for _ in range(40):
        assert judge(detector, 3.0) == ""
    assert judge(detector, 3.1) == ""
    assert judge(detector, 4.0) == "spike"


def test_the_history_goes_through_json_to_the_bit() -> None:
    one, other = Detector(6.0), Detector(6.0)
    calm(one, 33)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert other.state_dict() == one.state_dict()
    assert judge(other, 4.5) == judge(one, 4.5) == "spike"


ODD = Anomaly("spike", Loss(torch.tensor(9.0), 1, 0), 1.0)


def test_the_policy_gives_up_after_so_many_in_a_row_or_in_all() -> None:
    anomalies = Anomalies(OnAnomaly(policy="skip", in_a_row=2, in_all=5))
    for _ in range(2):
        assert anomalies.decide(ODD) is anomalies.decide(ODD) is None
        anomalies.good()
    other = Anomalies(anomalies.wishes)
    other.load_state_dict(json.loads(json.dumps(anomalies.state_dict())))
    assert other.decide(ODD) is None
    with pytest.raises(Anomaly, match="number 2 in a row, 6 in all"):
        other.decide(ODD)
    with pytest.raises(Anomaly):
        Anomalies(OnAnomaly()).decide(ODD)


def test_going_back_to_one_checkpoint_again_and_again_ends() -> None:
    anomalies = Anomalies(OnAnomaly(policy="rollback", in_a_row=1))
    anomalies.saved("00000004-a")
    assert anomalies.needed == "00000004-a"
    assert anomalies.decide(ODD) == "00000004-a"
    anomalies.good()  # the steps between are good ones
    with pytest.raises(Anomaly):
        anomalies.decide(ODD)
    anomalies.saved("00000008-a")
    assert anomalies.decide(ODD) == "00000008-a"


def test_without_a_checkpoint_there_is_no_way_back() -> None:
    anomalies = Anomalies(OnAnomaly(policy="rollback"))
    anomalies.saved("00000004-a")
    anomalies.begin_stage()
    with pytest.raises(Anomaly, match="and this stage has no checkpoint to go back to"):
        anomalies.decide(Anomaly("spike", Loss(torch.tensor(9.0), 1, 0), 1.0))


@pytest.mark.parametrize(
    ("key", "value"), [("in_a_row", 0), ("in_all", 0), ("window", 2), ("spikes", 0.0)]
)
def test_what_is_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        OnAnomaly(**{key: value})  # type: ignore[arg-type]
