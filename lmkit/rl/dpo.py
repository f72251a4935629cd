"""dpo: of two answers the preferred one; knows no rewards and samples nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmkit.config import Experiment, Stage
from lmkit.data import Rows, TokenStore
from lmkit.errors import ConfigError
from lmkit.model import LMBase
from lmkit.rl.weighing import by_document, log_probs, of_documents
from lmkit.text import Batch, Sample
from lmkit.text.pairs import split_pair
from lmkit.train.objective import Objective, Scene, Stream
from lmkit.train.stage_data import StageData, prepare_stage_data


class DPO(Objective):
    """Direct preference optimization (arXiv 2305.18290), on data of `{prompt, chosen, rejected}`.

    The loss of a pair is -log sigmoid(beta (gain of chosen - gain of rejected)), a gain being the
    log-probability of an answer minus that by the weights the stage began with. A row of the data
    is a pair; both answers stand in one row of a batch, apart as documents.

    Args:
        beta: how firmly the model is held to where it began.
        label_smoothing: the share of pairs taken to be the wrong way round (cDPO).

    Raises:
        ConfigError: a value is out of its range.
    """

    dropout = False  # chosen and rejected are compared by one and the same model
    lr_scale = 0.05  # 11 of 50 sums were right before 20 steps, 15 after; with the full rates none

    def __init__(self, *, beta: float = 0.1, label_smoothing: float = 0.0) -> None:
        if beta <= 0:
            raise ConfigError(f"beta must be above 0, not {beta}", key="beta")
        if not 0 <= label_smoothing < 0.5:
            raise ConfigError(
                f"label_smoothing is {label_smoothing}, and not in 0 .. 0.5", key="label_smoothing"
            )
        self.beta = beta
        self.label_smoothing = label_smoothing

    def prepare(self, experiment: Experiment, stage: Stage, model: LMBase) -> StageData:
        _refuse_what_does_nothing(stage)
        if not model.accepts_documents:
            raise ConfigError(
                f"stage '{stage.name}': DPO keeps the two answers of a row apart, and the forward "
                f"of {type(model).__name__} takes no documents",
                at=stage.data.at,
            )
        data = prepare_stage_data(experiment, stage, model, pairs=True)  # all: none is held out
        if not isinstance(data.train, TokenStore) or not data.train.prompts:
            raise ConfigError(
                f"stage '{stage.name}': {stage.data.path} gives no preferences",
                hint="DPO learns from one source of {prompt, chosen, rejected}",
                at=stage.data.at,
            )
        return data

    def lay_out(self, data: StageData, stage: Stage, model: LMBase, seed: int) -> PairRows:
        return PairRows(data.train, model.max_len, seed=seed, tokenizer=model.need_tokenizer())

    def stream(self, rows: Any, scene: Scene) -> Preferences:
        return Preferences(self, super().stream(rows, scene), scene)

    def trial_batch(self, rows: Any, scene: Scene) -> Batch:
        with closing(super().stream(rows, scene)) as stream:
            return next(stream)

    def loss(self, difference: Tensor) -> Tensor:
        """Of pairs, by how much more the chosen answer has gained than the rejected one."""
        right, wrong = F.logsigmoid(self.beta * difference), F.logsigmoid(-self.beta * difference)
        return -(1 - self.label_smoothing) * right - self.label_smoothing * wrong

    def slope(self, difference: Tensor) -> Tensor:
        """-d loss / d difference: what each token of a chosen answer weighs."""
        doubt = torch.sigmoid(-self.beta * difference)
        return self.beta * (doubt - self.label_smoothing)


def _refuse_what_does_nothing(stage: Stage) -> None:
    for key, given, why in (
        ("validation", stage.validation, "DPO measures nothing on held-out pairs"),
        (
            "isolate_documents",
            stage.isolate_documents,
            "DPO always keeps the two answers of a row apart",
        ),
    ):
        if given:
            raise ConfigError(
                f"stage '{stage.name}': {why}",
                hint=f"leave {key} out",
                at=stage.places.get(key, stage.at),
            )


class PairRows(Rows):
    """Rows of pairs, the chosen answer of each before the rejected one."""

    def samples(self, number: int) -> list[Sample]:
        return [half for pair in super().samples(number) for half in split_pair(pair)]


class Preferences(Stream, Iterator[Batch]):
    """Batches of pairs, every answer weighed by how much the model still has to learn of it."""

    def __init__(self, wishes: DPO, pairs: Stream, scene: Scene) -> None:
        self.wishes = wishes
        self.pairs = pairs
        self.scene = scene
        self.tokens = 0
        self.measures: Mapping[str, float] = {}
        self._reference = scene.reference()

    def __next__(self) -> Batch:
        batch = next(self.pairs)
        self.tokens = self.pairs.tokens
        assert batch.documents is not None
        documents = 2 * ((int(batch.documents.max()) // 2 if len(batch) else 0) + 1)
        gained = self._log_probs(self.scene.model, batch) - self._log_probs(self._reference, batch)
        gains = by_document(batch, gained, documents)
        chosen, rejected = gains[:, 0::2], gains[:, 1::2]
        # a row with fewer pairs than another has empty places
        there = by_document(batch, torch.ones_like(gained), documents)[:, 0::2] > 0
        slope = self.wishes.slope(chosen - rejected)
        values = torch.stack([slope, -slope], dim=2).flatten(1)
        self._measure((chosen - rejected)[there], int(there.sum()))
        weights = of_documents(batch, values) * batch.weights
        return Batch(
            batch.inputs,
            batch.targets,
            weights,
            batch.documents,
            count=int(there.sum()),  # the mean is over pairs
            bytes=batch.bytes,
            row_bytes=batch.row_bytes,
        )

    @property
    def waited(self) -> float:
        """Seconds waited for the data since this was last read."""
        return self.pairs.waited

    def close(self) -> None:
        """No more are needed."""
        self.pairs.close()

    def _measure(self, difference: Tensor, pairs: int) -> None:
        loss = self.wishes.loss(difference)
        sums = torch.stack([loss, difference, (difference > 0).float()]).sum(dim=1).tolist()
        count, total, margin, right = self.scene.world.sum([pairs, *sums])
        self.measures = {
            "preference_loss": total / max(count, 1),
            "preference_margin": margin / max(count, 1),
            "preference_accuracy": right / max(count, 1),
        }

    def _log_probs(self, model: LMBase, batch: Batch) -> Tensor:
        return log_probs(model, batch, self.scene.micro_batch, self.scene.precision)
