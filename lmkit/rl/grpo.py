"""grpo: the model's own answers to problems, weighed against each other; samples nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmkit.config import Experiment, Stage, build
from lmkit.errors import ConfigError, DataError
from lmkit.evals.task import Task
from lmkit.model import LMBase
from lmkit.rl.problems import ProblemRows
from lmkit.rl.rewards import Rewards
from lmkit.rl.rollouts import Rollouts
from lmkit.rl.rules import Rules
from lmkit.text import Batch
from lmkit.train.objective import Objective, Scene
from lmkit.train.plan import StagePlan
from lmkit.train.stage_data import StageData

LOOKED_AT = 100  # problems: if none of them leaves room for an answer, none will


class GRPO(Objective):
    """On-policy policy gradient over groups of answers to one problem.

    A step takes `batch_size` problems, samples `group_size` answers to each, and weighs every token
    that the model chose by the answer's advantage: its reward minus the mean of its group. The sum
    is divided once, by the sampled tokens of the whole step. As it stands this is REINFORCE with a
    group's mean as the baseline, nanochat's way; the arguments add what GRPO (DeepSeekMath, arXiv
    2402.03300) has. Answers are drawn at temperature 1 from all of the vocabulary: from the very
    distribution whose log-probabilities are trained. What a tool wrote is not trained, the end of
    the turn is.

    Args:
        group_size: answers to a problem.
        max_new_tokens: of an answer; the task's own limit by default.
        rewards: list of {reward: a function, a class or `task`, weight: 1.0}; by default the task's
            score.
        scale_by_std: divide an advantage by the standard deviation of its group's rewards. Without
            it (Dr. GRPO, arXiv 2503.20783) groups that agree count less.
        steps_per_rollout: optimizer steps whose answers are drawn at once, by the weights before
            the first of them; above 1 the ratio to those weights comes in.
        clip_ratio: a token whose ratio has left 1 - c .. 1 + c in the direction of its advantage
            is not pushed further (PPO, arXiv 1707.06347).
        kl: weight of the divergence from the weights that the stage began with (the k3 estimator).
        rows: answers that are sampled at once.

    Raises:
        ConfigError: a value is out of its range.
    """

    dropout = False  # what is weighed is the distribution that was sampled
    by_rows = False  # a rank packs its own answers
    lr_scale = 0.05  # of 3 seeds of docs/life.md 1 forgot all at 1.0, none did at 0.2 and below

    def __init__(
        self,
        *,
        group_size: int = 16,
        max_new_tokens: int | None = None,
        rewards: Sequence[Mapping[str, Any]] = (),
        scale_by_std: bool = False,
        steps_per_rollout: int = 1,
        clip_ratio: float = 0.2,
        kl: float = 0.0,
        rows: int = 128,
        folder: str | None = None,
    ) -> None:
        self.rules = Rules(
            group_size=group_size,
            max_new_tokens=max_new_tokens,
            scale_by_std=scale_by_std,
            steps_per_rollout=steps_per_rollout,
            clip_ratio=clip_ratio,
            kl=kl,
            rows=rows,
        )
        self.rewards = rewards
        self.folder = folder

    def prepare(self, experiment: Experiment, stage: Stage, model: LMBase) -> StageData:
        task = build(stage.data, folder=experiment.folder)
        if not isinstance(task, Task) or task.kind != "generative":
            raise ConfigError(
                f"stage '{stage.name}': reinforcement learning needs a task that scores what the "
                f"model writes, and {stage.data.path} is none",
                hint="such as lmkit.tasks.arithmetic.Arithmetic",
                at=stage.data.at,
            )
        if stage.batch_size is None or stage.tokens is not None:
            raise ConfigError(
                f"stage '{stage.name}' counts tokens, and answers are as long as they become",
                hint="give batch_size (problems a step) and steps or epochs",
                at=stage.data.at,
            )
        _check_borders(stage, self.rules.steps_per_rollout)
        self._rewards(task)
        _refuse_ignored(stage)
        rows = ProblemRows(task, model, seed=0)
        if not rows.rows_per_epoch:
            raise DataError("there are no problems", at=f"stage '{stage.name}', {stage.data.path}")
        if not any(rows.has_room(problem) for problem in rows.problems[:LOOKED_AT]):
            raise DataError(
                f"stage '{stage.name}': no problem leaves room for an answer in the context of "
                f"{model.max_len} tokens",
                hint="give the model a greater max_len",
                at=stage.data.at,
            )
        return StageData(task, None, task.fingerprint())

    def lay_out(self, data: StageData, stage: Stage, model: LMBase, seed: int) -> ProblemRows:
        return ProblemRows(data.train, model, seed)

    def batch_rows(self, plan: StagePlan) -> int:
        return plan.rows_per_batch * self.rules.group_size

    def describe(self, plan: StagePlan) -> str:
        return f"{plan.rows_per_batch:,} problems, {self.rules.group_size} answers to each"

    def stream(self, rows: Any, scene: Scene) -> Rollouts:
        return Rollouts(self.rules, rows, self._rewards(rows.task), scene)

    def trial_batch(self, rows: Any, scene: Scene) -> Batch:
        return rows.batch(0, scene.micro_batch.rows)

    def _rewards(self, task: Task) -> Rewards:
        return Rewards(self.rewards, task, self.folder)


def _refuse_ignored(stage: Stage) -> None:
    """Keys that mean nothing where the model writes its own text."""
    given = {
        "validation": stage.validation is not None,
        "isolate_documents": stage.isolate_documents,
    }
    for key, is_given in given.items():
        if is_given:
            raise ConfigError(
                f"stage '{stage.name}': {key} means nothing in reinforcement learning",
                hint="name tasks under evaluate: to measure it",
                at=stage.places.get(key, stage.at),
            )


def _check_borders(stage: Stage, steps: int) -> None:
    """A run goes on from its checkpoints only if they lie between two rollouts."""
    for key, every in (
        ("checkpoint.every", stage.checkpoint.every),
        ("evaluate.every", stage.evaluate.every if stage.checkpoint.best else 0),
    ):
        if every % steps:
            raise ConfigError(
                f"stage '{stage.name}': {key} {every} is no multiple of steps_per_rollout {steps}",
                hint=f"nearest: {max(1, round(every / steps)) * steps}",
                at=stage.data.at,
            )
