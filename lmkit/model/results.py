"""results: what training on prompts gives back; the text in it is made only when read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from torch import Tensor


class Predictions(Sequence[str]):
    """One text a row, what the model would have said in place of each trained token.

    The first look runs the model and decodes: a step whose predictions nobody reads pays nothing.
    Look before the weights change, or the words are the changed model's.
    """

    def __init__(self, rows: int, predict: Callable[[], list[str]]) -> None:
        self._rows = rows
        self._predict = predict
        self._texts: list[str] | None = None

    @property
    def texts(self) -> list[str]:
        """All of them, as a list."""
        if self._texts is None:
            self._texts = self._predict()
        return self._texts

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self.texts[index]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a model says of some prompts; unpacks as (predictions, loss, token_count).

    Attributes:
        predictions: a text a prompt, decoded when read.
        loss: scalar tensor, the sum over tokens in nats, with its graph.
        token_count: tokens that were trained on; `loss / token_count` is nats a token.
    """

    predictions: Sequence[str]
    loss: Tensor
    token_count: int

    def __iter__(self) -> Iterator[Any]:
        return iter((self.predictions, self.loss, self.token_count))
