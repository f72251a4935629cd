"""Answers of one's own: what is drawn, what of it is trained, and what each token weighs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lmkit.data.holdout import Split
from lmkit.evals.task import Problem, Task
from lmkit.model import LMBase
from lmkit.prompts import Completion, Message
from lmkit.ranks.world import World
from lmkit.rl.problems import ProblemRows
from lmkit.rl.rewards import Rewards
from lmkit.rl.rollouts import Rollouts, draw_seed, sample_of
from lmkit.rl.rules import Rules
from lmkit.text import Batch
from lmkit.train.accumulate import LossModule, accumulate
from lmkit.train.objective import Scene

MakeScene = Callable[..., Scene]


def rollouts(task: Task, scene: Scene, **rules: Any) -> Rollouts:
    rules = {"group_size": 4, **rules}
    return Rollouts(
        Rules(**rules), ProblemRows(task, scene.model, seed=3), Rewards((), task), scene
    )


def rows_of(batch: Batch) -> list[list[float]]:
    """Rows in any order, as a batch of a part of the problems may be packed otherwise."""
    return sorted(batch.inputs.tolist())


def test_every_epoch_has_each_problem_once_in_another_order(task: Task, model: LMBase) -> None:
    rows = ProblemRows(task, model, seed=1)
    first, second = ([p.answer for _, p in rows.pick(at, 5)] for at in (0, 5))
    assert sorted(first) == sorted(second) == list("aeiou")
    assert first != second
    assert [p.answer for _, p in rows.pick(3, 4)] == (first + second)[3:7]


def test_before_there_are_answers_the_solutions_are_shown(task: Task, model: LMBase) -> None:
    batch = ProblemRows(task, model, seed=1).batch(0, 3)
    tokenizer = model.need_tokenizer()
    trained = [
        tokenizer.decode(row[weights != 0][:-1].tolist())
        for row, weights in zip(batch.targets, batch.weights, strict=True)
    ]
    assert trained == [3 * p.answer for _, p in ProblemRows(task, model, seed=1).pick(0, 3)]


def test_answers_do_not_depend_on_how_many_are_sampled_at_once(
    task: Task, model: LMBase, make_scene: MakeScene
) -> None:
    together = next(rollouts(task, make_scene(model), rows=128))
    apart = next(rollouts(task, make_scene(model), rows=4))
    assert torch.equal(together.inputs, apart.inputs)
    torch.testing.assert_close(together.weights, apart.weights)


def test_a_stream_opened_in_the_middle_goes_on_as_the_first_one(
    task: Task, model: LMBase, make_scene: MakeScene
) -> None:
    whole = rollouts(task, make_scene(model))
    batches = [next(whole) for _ in range(4)]
    with pytest.raises(StopIteration):
        next(whole)
    later = rollouts(task, make_scene(model, position=6))
    assert torch.equal(next(later).inputs, batches[2].inputs)


def test_ranks_answer_what_one_rank_would(task: Task, model: LMBase, make_scene: MakeScene) -> None:
    alone = next(rollouts(task, make_scene(model, rows=4)))

    class Pair(World):
        def sum(self, values: Sequence[float]) -> list[float]:
            return list(values)

    parts = [
        next(rollouts(task, make_scene(model, rows=4, world=Pair(rank, 2, torch.device("cpu")))))
        for rank in range(2)
    ]
    trained = [float(part.weights.abs().sum()) for part in parts]
    assert sum(trained) == pytest.approx(float(alone.weights.abs().sum()), rel=1e-5)
    assert sum(part.count for part in parts) == alone.count


def test_only_what_the_model_chose_is_trained_its_end_included() -> None:
    completion = Completion("q", "", (5, 6, 7, 8), "stop", forced=frozenset({1, 2}), end=9)
    sample = sample_of([1, 2], completion, width=20)
    assert sample.ids.tolist() == [1, 2, 5, 6, 7, 8, 9]
    assert sample.mask.tolist() == [False, False, True, False, False, True, True]


def test_an_answer_that_was_cut_has_no_end_to_train() -> None:
    sample = sample_of([1, 2], Completion("q", "", (5, 6), "length"), width=20)
    assert sample.ids.tolist() == [1, 2, 5, 6]
    assert sample_of([1, 2], Completion("q", "", (5, 6), "length"), width=2).ids.tolist() == [
        1,
        2,
        5,
    ]


def test_the_end_token_is_in_the_loss_of_a_real_rollout(
    task: Task, model: LMBase, make_scene: MakeScene
) -> None:
    with torch.no_grad():  # a model that soon ends
        model.head.weight[model.need_tokenizer().eos] += model.head.weight.std() * 20
    batch = next(rollouts(task, make_scene(model, rows=5), group_size=8))
    ends = (batch.targets == model.need_tokenizer().eos) & (batch.weights != 0)
    assert ends.any()


def test_weights_are_advantages_and_the_count_is_of_sampled_tokens(
    task: Task, model: LMBase, make_scene: MakeScene
) -> None:
    stream = rollouts(task, make_scene(model))
    batch = next(stream)
    sampled = stream.measures["answer_tokens"] + stream.measures["answers_ended"]
    assert batch.count == round(12 * sampled)
    assert (batch.weights > 0).any()
    assert (batch.weights < 0).any()
    assert stream.measures["reward"] > 0
    assert stream.tokens == batch.inputs.numel()


def test_groups_that_agree_are_counted_and_weigh_nothing(
    model: LMBase, task: Task, make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(task), "score", lambda self, problem, completion: 0.1)
    stream = rollouts(task, make_scene(model))
    batch = next(stream)
    assert stream.measures["equal_groups"] == 1.0
    assert batch.weights.abs().max() == 0
    assert batch.count > 0


def test_problems_too_long_for_an_answer_are_left_out_with_a_warning(
    model: LMBase, make_scene: MakeScene, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    class Long(type(task)):  # type: ignore[misc]
        def problems(self, split: Split) -> Sequence[Problem]:
            long = Problem((Message("user", 100 * "a"),), answer="a")
            return [long, *super().problems(split)[:2]]

    with caplog.at_level(logging.WARNING):
        stream = rollouts(Long(), make_scene(model))
        batch = next(stream)
    assert stream.measures["problems_left_out"] == 1
    assert "do not fit into 64 tokens" in caplog.text
    assert batch.count > 0


def test_where_no_problem_fits_no_reward_is_made_up(
    model: LMBase, make_scene: MakeScene, task: Task
) -> None:
    class Long(type(task)):  # type: ignore[misc]
        def problems(self, split: Split) -> Sequence[Problem]:
            return [Problem((Message("user", 100 * "a"),), answer="a")] * 3

    stream = rollouts(Long(), make_scene(model))
    batch = next(stream)
    assert stream.measures == {"problems_left_out": 3}
    assert len(batch) == batch.count == 0


def test_an_answer_may_reach_past_the_context(
    model: LMBase, make_scene: MakeScene, task: Task
) -> None:
    class Endless(type(task)):  # type: ignore[misc]
        max_new_tokens = 100

    batch = next(rollouts(Endless(), make_scene(model)))
    assert batch.width == 64
    assert batch.count < 12 * 64


def test_memory_that_runs_out_in_the_log_probabilities_halves_the_micro_batch(
    model: LMBase, make_scene: MakeScene, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(model)
    real = type(model).log_probs

    def small(self: LMBase, batch: Batch) -> torch.Tensor:
        if len(batch) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried too much")
        return real(self, batch)

    monkeypatch.setattr(type(model), "log_probs", small)
    assert next(rollouts(task, scene, kl=0.1)).count
    assert scene.micro_batch.rows == 1


def gradient(model: LMBase, batch: Batch, scene: Scene) -> dict[str, torch.Tensor]:
    model.zero_grad()
    accumulate(
        LossModule(model),
        batch,
        micro_batch=2,
        world=scene.world,
        precision=scene.precision,
        seed=0,
    )
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_step_has_the_gradient_of_the_clipped_objective_with_its_divergence(
    task: Task, model: LMBase, make_scene: MakeScene
) -> None:
    scene = make_scene(model)
    stream = rollouts(task, scene, steps_per_rollout=2, clip_ratio=0.1, kl=0.3)
    next(stream)
    with torch.no_grad():  # the step between the two
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    rollout = stream._ahead[0]
    batch = next(stream)
    found = gradient(model, batch, scene)

    model.zero_grad()
    plain, chosen = rollout.batch, rollout.batch.weights
    now = model.log_probs(plain)
    ratio = (now - rollout.old).exp()
    clipped = ratio.clamp(0.9, 1.1)
    gain = torch.minimum(ratio * rollout.advantages, clipped * rollout.advantages)
    gap = scene.reference().log_probs(plain) - now
    objective = gain - 0.3 * (gap.exp() - gap - 1)
    (-(objective * chosen).sum() / chosen.sum()).backward()
    assert 0 < stream.measures["clipped"] < 1
    assert stream.measures["kl"] > 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_a_model_without_documents_learns_from_one_answer_a_row(
    task: Task, make_scene: MakeScene, model: LMBase
) -> None:
    packed = next(rollouts(task, make_scene(model)))
    model.accepts_documents = False
    single = next(rollouts(task, make_scene(model)))
    assert single.documents is None
    assert len(single) == 12 > len(packed)
    assert single.count == packed.count
    assert float(single.weights.sum()) == pytest.approx(float(packed.weights.sum()), abs=1e-5)


def test_seeds_of_draws_differ() -> None:
    seeds = {draw_seed(1, number, sample) for number in range(30) for sample in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_rewards_rise(task: Task, model: LMBase, make_scene: MakeScene) -> None:
    scene = make_scene(model, rows=5, steps=30)
    stream = rollouts(task, scene, group_size=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    rewards = []
    for batch in stream:
        gradient(model, batch, scene)
        optimizer.step()
        rewards.append(stream.measures["reward"])
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.15


def test_scene_is_left_as_it_was(task: Task, model: LMBase, make_scene: MakeScene) -> None:
    model.train()
    scene = make_scene(model)
    next(rollouts(task, scene))
    assert model.training
    assert replace(scene) == scene
