from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmkit.errors import ConfigError, NumericError
from lmkit.inference import Sampling, sample

THREE = torch.tensor([0.5, 0.3, 0.2]).log()


def draw(logits: Tensor, times: int = 2000, **options: object) -> Counter[int]:
    """What comes out of `times` independent rows with these logits."""
    sampling = Sampling(**{"temperature": 1.0, **options})  # type: ignore[arg-type]
    rows = range(times)
    return Counter(sample(logits.expand(times, -1), sampling, rows=rows, step=0))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": ("",)}, "stop"),
        ({"stop_ids": (3, -1)}, "stop_ids"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is "):
        Sampling(**options)  # type: ignore[arg-type]


def test_one_stop_string_is_a_tuple_of_one() -> None:
    assert Sampling(stop="END").stop == ("END",)  # type: ignore[arg-type]


def test_temperature_zero_is_argmax() -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    assert sample(logits, Sampling(), rows=range(8), step=3) == logits.argmax(-1).tolist()


def test_a_temperature_near_zero_is_argmax_too() -> None:
    assert draw(torch.tensor([80.0, 90.0, -90.0]), temperature=1e-40) == {1: 2000}


def test_draws_follow_the_softmax() -> None:
    shares = draw(THREE)
    for index, share in enumerate([0.5, 0.3, 0.2]):
        assert abs(shares[index] / 2000 - share) < 0.04  # 4 standard deviations


def test_temperature_sharpens_and_flattens() -> None:
    assert draw(THREE, temperature=0.5)[0] > draw(THREE)[0] > draw(THREE, temperature=3.0)[0]


@given(k=st.integers(1, 12), seed=st.integers(0, 999))
@settings(max_examples=20)
def test_top_k_keeps_the_k_likeliest(k: int, seed: int) -> None:
    logits = torch.randn(10, generator=torch.Generator().manual_seed(seed))
    kept = set(logits.topk(min(k, 10)).indices.tolist())
    assert set(draw(logits, times=1000, top_k=k, temperature=100.0)) == kept


def test_top_k_of_ties_keeps_k() -> None:
    assert len(draw(torch.zeros(10), top_k=3)) == 3


def test_top_p_keeps_the_id_that_crosses() -> None:
    assert set(draw(THREE, top_p=0.6)) == {0, 1}
    assert set(draw(THREE, top_p=0.05)) == {0}
    assert set(draw(THREE, top_p=0.99)) == {0, 1, 2}


def test_top_p_counts_within_top_k() -> None:
    # of 0.5, 0.3 the first has 0.625
    assert set(draw(THREE, top_k=2, top_p=0.6)) == {0}
    assert set(draw(THREE, top_k=2, top_p=0.7)) == {0, 1}


def test_min_p_measures_by_the_likeliest() -> None:
    assert set(draw(THREE, min_p=0.39)) == {0, 1, 2}
    assert set(draw(THREE, min_p=0.41)) == {0, 1}
    assert set(draw(THREE, min_p=1.0)) == {0}
    # at temperature 2 the third is sqrt(0.4) = 0.63 times as likely as the first
    assert set(draw(THREE, min_p=0.62, temperature=2.0)) == {0, 1, 2}
    assert set(draw(THREE, min_p=0.64, temperature=2.0)) == {0, 1}
    # top_p goes by the shares of all, whatever min_p takes away: of 0.5 alone, 0.49 would be enough
    assert set(draw(THREE, min_p=0.5, top_p=0.51)) == {0, 1}


def test_the_repetition_penalty_lowers_negative_logits_too() -> None:
    seen = torch.tensor([[True, True, False]])
    sampling = Sampling(repetition_penalty=2.0)

    def choose(*logits: float) -> int:
        return sample(torch.tensor([logits]), sampling, rows=[0], step=0, seen=seen)[0]

    assert choose(-1.0, -3.0, -1.5) == 2  # -1 becomes -2
    assert choose(2.0, 0.5, 1.5) == 2  # 2 becomes 1
    assert choose(4.0, 0.5, 1.5) == 0


@given(seed=st.integers(0, 10**9), row=st.integers(0, 100), step=st.integers(0, 100))
def test_a_draw_depends_on_seed_row_and_step_only(seed: int, row: int, step: int) -> None:
    sampling = Sampling(temperature=1.0, seed=seed)
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(row))
    alone = sample(logits[1:2], sampling, rows=[row], step=step)
    among = sample(logits, sampling, rows=[row + 7, row, row + 1], step=step)
    assert among[1] == alone[0]


def test_seed_row_and_step_all_matter() -> None:
    flat = torch.zeros(1, 10**6)

    def choose(seed: int, row: int, step: int) -> int:
        return sample(flat, Sampling(temperature=1.0, seed=seed), rows=[row], step=step)[0]

    assert len({choose(0, 0, 0), choose(1, 0, 0), choose(0, 1, 0), choose(0, 0, 1)}) == 4
    three = sample(
        flat.expand(3, -1), Sampling(temperature=1.0), rows=[0] * 3, step=[0, 1, 0], seeds=[4, 4, 5]
    )
    assert len(set(three)) == 3


@given(seeds=st.lists(st.integers(0, 10**9), min_size=2, max_size=4), step=st.integers(0, 100))
@settings(max_examples=10)
def test_a_row_with_a_seed_of_its_own_goes_by_that_and_its_step(
    seeds: list[int], step: int
) -> None:
    flat = torch.zeros(len(seeds), 10**4)
    steps = range(step, step + len(seeds))
    sampling = Sampling(temperature=1.0, seed=5)
    chosen = sample(flat, sampling, rows=range(len(seeds)), step=steps, seeds=seeds)
    for place, (seed, own) in enumerate(zip(seeds, steps, strict=True)):
        other = Sampling(temperature=1.0, seed=6)
        alone = sample(flat[:1], other, rows=[7], step=own, seeds=[seed])
        assert alone == [chosen[place]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [[math.nan, 1.0], [math.inf, 1.0], [-math.inf, -math.inf]])
def test_logits_that_are_not_finite_are_an_error(bad: list[float], temperature: float) -> None:
    logits = torch.tensor([[0.0, 1.0], bad])
    with pytest.raises(NumericError, match="row 5 .* step 2"):
        sample(logits, Sampling(temperature=temperature), rows=[4, 5], step=2)


def test_a_forbidden_id_may_have_minus_infinity() -> None:
    assert set(draw(torch.tensor([-math.inf, 0.0, 0.0]))) == {1, 2}


@given(seed=st.integers(0, 99), p=st.floats(0.05, 0.99))
@settings(max_examples=15, deadline=None)
def test_top_p_of_many_ids_is_what_sorting_all_of_them_gives(seed: int, p: float) -> None:
    # two sharp rows, two so flat that the few ids that are looked at first do not reach p
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 2000, generator=generator) * torch.tensor([[6.0], [0.5], [0.1], [9.0]])
    shares, ids = logits.double().softmax(-1).sort(-1, descending=True)
    within = shares.cumsum(-1) - shares < p
    sampling = Sampling(temperature=1.0, top_p=p, seed=seed)
    together = sample(logits, sampling, rows=range(4), step=0)
    for row, chosen in enumerate(together):
        assert chosen in ids[row][within[row]].tolist()
        assert sample(logits[row : row + 1], sampling, rows=[row], step=0) == [chosen]
    flat = sample(logits[[1]].expand(500, -1), sampling, rows=range(500), step=0)
    assert set(flat) <= set(ids[1][within[1]].tolist())
    assert p < 0.5 or set(flat) - set(ids[1][:256].tolist())
