"""rollouts: batches that the model feeds itself: problems, answers, rewards, weights."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmkit.evals.task import Problem
from lmkit.inference import Sampling
from lmkit.model import LMBase
from lmkit.prompts import Completion
from lmkit.rl.problems import ProblemRows
from lmkit.rl.rewards import Rewards
from lmkit.rl.rules import Rules, equal_groups
from lmkit.rl.weighing import log_probs, of_documents, weighed
from lmkit.text import Batch, Sample, chat, pack
from lmkit.train.memory import MicroBatch
from lmkit.train.objective import Scene, Stream

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollout:
    """The answers of one optimizer step, on this rank.

    Attributes:
        batch: weights are 1 where the model chose the token.
        advantages: (B, T), of the answer that each position belongs to.
        old: (B, T), log-probabilities by the weights that answered; None if those are still there.
        tokens, measures: over all ranks.
    """

    batch: Batch
    advantages: Tensor
    old: Tensor | None
    tokens: int
    measures: Mapping[str, float]


class Rollouts(Stream, Iterator[Batch]):
    """Answers problems with the model as it is now, and weighs what it chose.

    Every draw follows from the stage's seed, the problem's number in the stream and the answer's
    place in its group: a resumed run draws the same, whatever else is sampled beside it.
    """

    def __init__(self, rules: Rules, rows: ProblemRows, rewards: Rewards, scene: Scene) -> None:
        self.rules = rules
        self.rows = rows
        self.rewards = rewards
        self.scene = scene
        self.position = scene.position
        self.tokens = 0
        self.measures: Mapping[str, float] = {}
        self._told = False
        self._ahead: deque[Rollout] = deque()
        self._waited = 0.0
        self._at_once = MicroBatch(rules.rows, scene.micro_batch.device)
        self._reference = scene.reference() if rules.kl else None

    def __next__(self) -> Batch:
        started = time.perf_counter()
        if not self._ahead:
            self._roll_out()
        if not self._ahead:
            raise StopIteration
        rollout = self._ahead.popleft()
        batch, measures = self._weigh(rollout)
        self.tokens, self.measures = rollout.tokens, {**rollout.measures, **measures}
        self._waited += time.perf_counter() - started
        return batch

    @property
    def resumable(self) -> bool:
        """Between two rollouts: answers that wait were drawn by weights that are gone."""
        return not self._ahead

    @property
    def waited(self) -> float:
        """Seconds spent answering since this was last read."""
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Nothing is prepared ahead."""

    # --- answers ------------------------------------------------------------------------------

    def _roll_out(self) -> None:
        """Answer the problems of the next `steps_per_rollout` steps."""
        plan, several = self.scene.plan, self.rules.steps_per_rollout > 1
        for _ in range(self.rules.steps_per_rollout):
            count = min(plan.rows_per_batch, plan.last_row - self.position)
            if count <= 0:
                return
            self._ahead.append(self._answer_step(self.position, count, keep_old=several))
            self.position += count

    def _answer_step(self, first: int, count: int, *, keep_old: bool) -> Rollout:
        world, group = self.scene.world, self.rules.group_size
        start, stop = (count * rank // world.size for rank in (world.rank, world.rank + 1))
        mine = self.rows.pick(first + start, stop - start)
        picked = self._that_fit(mine)
        answers = self._answer(picked)
        parts = [
            self.rewards(problem, answer)
            for (_, problem), several in zip(picked, answers, strict=True)
            for answer in several
        ]
        rewards = torch.tensor([total for total, _ in parts], dtype=torch.float64)
        advantages = self.rules.advantages(rewards.view(-1, group)) if picked else rewards
        batch, spread = self._pack(picked, answers, advantages.flatten().float())
        flat = [answer for several in answers for answer in several]
        measures, tokens = self._measure(
            flat, rewards, [each for _, each in parts], batch, len(mine) - len(picked)
        )
        old = self._log_probs(self.scene.model, batch) if keep_old else None
        return Rollout(batch, spread, old, tokens, measures)

    def _that_fit(self, picked: Sequence[tuple[int, Problem]]) -> list[tuple[int, Problem]]:
        """The problems that leave room for an answer."""
        fit = [each for each in picked if self.rows.has_room(each[1])]
        if len(fit) < len(picked) and not self._told:
            width = self.scene.plan.width
            logger.warning("problems that do not fit into %d tokens are left out", width)
            self._told = True
        return fit

    def _answer(self, picked: Sequence[tuple[int, Problem]]) -> list[list[Completion]]:
        """`group_size` answers to each problem, `rows` answers at once or what the memory holds."""
        model, group = self.scene.model, self.rules.group_size
        limit = self.rules.max_new_tokens or self.rows.task.max_new_tokens
        sampling = Sampling(temperature=1.0, max_new_tokens=limit)
        seeds = [
            draw_seed(self.scene.seed, number, sample)
            for number, _ in picked
            for sample in range(group)
        ]

        def work() -> list[Completion]:
            return model.generate(
                [problem.prompt for _, problem in picked],
                sampling,
                samples=group,
                seeds=seeds,
                batch_size=self._at_once.rows,
            )

        with torch.no_grad(), self.scene.precision.autocast():
            answers = self._at_once.fit(work, lambda: None)
        return [answers[at : at + group] for at in range(0, len(answers), group)]

    def _pack(
        self,
        picked: Sequence[tuple[int, Problem]],
        answers: Sequence[Sequence[Completion]],
        advantages: Tensor,
    ) -> tuple[Batch, Tensor]:
        """The answers in rows: weights 1 where the model chose, and each position's advantage."""
        model = self.scene.model
        tokenizer, width = model.need_tokenizer(), self.scene.plan.width
        samples = [
            sample_of(chat.ask(tokenizer, problem.messages), answer, width)
            for (_, problem), several in zip(picked, answers, strict=True)
            for answer in several
        ]
        # without their bos: `pack` counts it itself
        lengths = np.array([len(sample.ids) - 1 for sample in samples], dtype=np.int64)
        if model.accepts_documents:
            layout = [
                [piece.document for piece in row] for row in pack(lengths, width + 1, split=False)
            ]
        else:
            layout = [[index] for index in range(len(samples))]
        batch = Batch.packed(
            [[samples[index] for index in row] for row in layout],
            tokenizer.eos,
            tokenizer.token_bytes,
            width,
            isolate=model.accepts_documents,
        )
        values = torch.zeros(len(layout), max(map(len, layout), default=1))
        for number, row in enumerate(layout):
            values[number, : len(row)] = advantages[row]
        return batch, of_documents(batch, values)

    def _measure(
        self,
        answers: Sequence[Completion],
        rewards: Tensor,
        parts: Sequence[Sequence[float]],
        batch: Batch,
        left_out: int,
    ) -> tuple[dict[str, float], int]:
        """What is logged of a rollout, and the positions of its batch, over all ranks."""
        grouped = rewards.view(-1, self.rules.group_size)
        sums = self.scene.world.sum(
            [
                len(answers),
                float(rewards.sum()),
                sum(answer.finish == "stop" for answer in answers),
                sum(len(answer.ids) for answer in answers),
                len(grouped),
                int(equal_groups(grouped).sum()),
                batch.inputs.numel(),
                left_out,
                *(sum(each[i] for each in parts) for i in range(len(self.rewards.names))),
            ]
        )
        n, total, ended, length, groups, same, positions, missing, *of_parts = sums
        measures: dict[str, float] = {"problems_left_out": missing} if missing else {}
        if not n:
            return measures, int(positions)
        measures |= {
            "reward": total / n,
            "answers_ended": ended / n,
            "answer_tokens": length / n,
            "equal_groups": same / groups,
        }
        if len(of_parts) > 1:
            named = zip(self.rewards.names, of_parts, strict=True)
            measures |= {f"reward_{name}": value / n for name, value in named}
        return measures, int(positions)

    # --- weights ------------------------------------------------------------------------------

    def _weigh(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """The batch with the weights that give the objective's gradient now."""
        batch, weights = rollout.batch, rollout.advantages
        chosen = batch.weights
        measures: dict[str, float] = {}
        if rollout.old is None and self._reference is None:
            return weighed(batch, weights * chosen), measures
        now = self._log_probs(self.scene.model, batch)
        if rollout.old is not None:
            ratio = (now - rollout.old).exp()
            clipped = self.rules.ratio_weights(weights, ratio)
            stopped = (clipped == 0) & (weights != 0)
            measures["clipped"] = self._mean(stopped * chosen, chosen)
            weights = clipped
        if self._reference is not None:
            gap = self._log_probs(self._reference, batch) - now
            # d/d(log p) of exp(gap) - gap - 1 is 1 - exp(gap)
            weights = weights - self.rules.kl * (1 - gap.exp())
            measures["kl"] = self._mean((gap.exp() - gap - 1) * chosen, chosen)
        return weighed(batch, weights * chosen), measures

    def _log_probs(self, model: LMBase, batch: Batch) -> Tensor:
        return log_probs(model, batch, self.scene.micro_batch, self.scene.precision)

    def _mean(self, values: Tensor, chosen: Tensor) -> float:
        total, count = self.scene.world.sum([float(values.sum()), float(chosen.sum())])
        return total / max(count, 1.0)


def sample_of(asked: Sequence[int], answer: Completion, width: int) -> Sample:
    """A question and its answer; the mask is true where the model chose the token, its end too."""
    ids = [*asked, *answer.ids, *([] if answer.end is None else [answer.end])]
    mask = np.zeros(len(ids), dtype=bool)
    mask[len(asked) :] = True
    mask[[len(asked) + place for place in answer.forced]] = False
    return Sample(np.array(ids[: width + 1], dtype=np.int32), mask[: width + 1])


def draw_seed(*numbers: int) -> int:
    """A seed that depends on these numbers only."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
