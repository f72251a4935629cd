from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmkit.errors import ConfigError
from lmkit.rl.rules import Rules, equal_groups

scores = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=4, max_size=4)


@given(st.lists(scores, min_size=1, max_size=3), st.booleans())
def test_advantages_of_a_group_sum_to_zero_and_keep_its_order(
    rewards: list[list[float]], scale: bool
) -> None:
    given_ = torch.tensor(rewards, dtype=torch.float64)
    found = Rules(group_size=4, scale_by_std=scale).advantages(given_)
    assert found.sum(dim=1).abs().max() < 1e-9
    assert (found[given_ > given_.mean(dim=1, keepdim=True)] > 0).all()
    assert (found[equal_groups(given_)] == 0).all()


def test_a_group_that_agrees_weighs_nothing_even_where_its_mean_is_rounded() -> None:
    rewards = torch.full((1, 3), 0.1, dtype=torch.float64)
    assert Rules().advantages(rewards).tolist() == [[0.0, 0.0, 0.0]]


def test_scaling_gives_every_group_the_same_spread() -> None:
    rewards = torch.tensor([[0.0, 1.0], [0.0, 100.0]], dtype=torch.float64)
    found = Rules(scale_by_std=True).advantages(rewards)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=0.0)


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(0.3, 3.0)), min_size=1, max_size=5),
    st.floats(0.0, 0.5),
)
def test_ratio_weights_are_the_gradient_of_the_clipped_objective(
    drawn: list[tuple[float, float]], clip: float
) -> None:
    advantages, ratio = (
        torch.tensor(each, dtype=torch.float64) for each in zip(*drawn, strict=True)
    )
    log_p = ratio.log().requires_grad_()
    r = log_p.exp()
    objective = torch.minimum(r * advantages, r.clamp(1 - clip, 1 + clip) * advantages)
    objective.sum().backward()
    near = ((ratio - 1).abs() - clip).abs() < 1e-6  # there it has a kink
    found = Rules(clip_ratio=clip).ratio_weights(advantages, ratio)
    torch.testing.assert_close(found[~near], log_p.grad[~near])


@pytest.mark.parametrize(
    ("key", "value"),
    [("group_size", 1), ("steps_per_rollout", 0), ("kl", -0.1), ("rows", 0), ("max_new_tokens", 0)],
)
def test_a_value_out_of_range_is_named(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        Rules(**{key: value})
