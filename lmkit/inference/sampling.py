"""sampling: logits in, one id a row out; knows nothing of models or text.

B rows, V entries of the vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmkit.errors import ConfigError, NumericError

FIRST = 256  # entries that are sorted before it is known how many top_p needs


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next id is chosen, and for how long.

    Args:
        temperature: 0 takes the likeliest id (greedy); below 1 sharpens, above 1 flattens.
        top_k: only the k likeliest ids may be drawn; None: all.
        top_p: only the likeliest ids that together reach this probability, the one that crosses it
            included (Holtzman et al., arXiv 1904.09751).
        min_p: only ids at least so many times as likely as the likeliest one (Nguyen et al., arXiv
            2407.01082).
        repetition_penalty: above 1 makes ids that have been read or written less likely
            (Keskar et al., arXiv 1909.05858).
        max_new_tokens: at most so many ids a prompt.
        stop: the text ends before the first of these strings.
        stop_ids: the text ends before the first of these ids, as it does before an end mark.
        seed: a draw is a function of (seed, row, step) and of the row's own logits.

    Raises:
        ConfigError: a value outside its range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))
        self._require("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or more")
        self._require("top_k", self.top_k is None or self.top_k >= 1, "1 or more, or left out")
        self._require("top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        self._require("min_p", 0 <= self.min_p <= 1, "from 0 to 1")
        penalty = self.repetition_penalty
        self._require("repetition_penalty", 0 < penalty < math.inf, "above 0")
        self._require("max_new_tokens", self.max_new_tokens >= 1, "1 or more")
        self._require("stop", all(stop), "strings that are not empty")
        self._require("stop_ids", all(token >= 0 for token in self.stop_ids), "ids, 0 or more")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            said = f"{name} is {getattr(self, name)!r}"
            raise ConfigError(said, hint=f"it must be {wanted}", key=name)


def sample(
    logits: Tensor,
    sampling: Sampling,
    *,
    rows: Sequence[int],
    step: int | Sequence[int],
    seeds: Sequence[int] | None = None,
    seen: Tensor | None = None,
) -> list[int]:
    """Choose one id a row, on the host: the one place where generation waits for the device.

    Args:
        logits: (B, V).
        rows: the B rows' numbers.
        step: how much each row has written so far; one number if that is the same for all. A row's
            draw is a function of `sampling.seed`, row and step,
        seeds: or, where each of the B rows has a seed of its own, of that and the step.
        seen: (B, V) bool, the ids that the repetition penalty speaks of.

    Raises:
        NumericError: a row's logits hold a NaN or have no finite maximum.
    """
    steps = [step] * len(rows) if isinstance(step, int) else step
    logits = logits.float()
    if seen is not None:
        logits = _penalize(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        best, ids = logits.max(dim=-1)
    else:
        own = [(sampling.seed, row) for row in rows] if seeds is None else [(s,) for s in seeds]
        draws = [_uniform(*key, n) for key, n in zip(own, steps, strict=True)]
        best = logits.amax(dim=-1)
        # Apple's GPUs have no float64
        home = torch.device("cpu") if logits.device.type == "mps" else logits.device
        chances = torch.tensor(draws, dtype=torch.float64, device=home)
        ids = _draw(logits.to(home), sampling, chances).to(best.device)
    chosen: list[int] = ids.tolist()
    finite = [math.isfinite(value) for value in best.tolist()]  # a NaN wins every maximum
    if not all(finite):
        at = finite.index(False)
        raise NumericError(
            f"the logits of row {rows[at]} are not finite at step {steps[at]}",
            hint="the weights hold NaN or infinity, or a half-precision dtype overflows",
        )
    return chosen


def _penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    # dividing a negative logit would raise it, and make a repeat likelier
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lowered, logits)


def _draw(logits: Tensor, sampling: Sampling, draws: Tensor) -> Tensor:
    """(B, V) logits and (B,) numbers of [0, 1) to (B,) ids, by inversion of the distribution.

    Sums are taken in float64: float32's rounding over 50,000 entries is larger than the small
    probabilities.
    """
    ids = None
    if sampling.top_k is not None:
        logits, ids = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1)
    # from the maximum, which weighs 1, down: so no temperature is too small to divide by
    weights = ((logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature).exp()
    if sampling.top_p < 1:
        mass = sampling.top_p * weights.sum(dim=-1, keepdim=True, dtype=torch.float64)
        if ids is None:
            weights, ids = _heaviest(weights, mass)
        before = weights.cumsum(dim=-1, dtype=torch.float64) - weights
        weights = weights.masked_fill(before >= mass, 0.0)
    if sampling.min_p > 0:
        weights = weights.masked_fill(weights < sampling.min_p, 0.0)
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    goal = draws[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, goal, right=True)
    if ids is not None:
        place = ids.gather(1, place.clamp(max=ids.shape[1] - 1))  # a NaN's place is behind the last
    return place[:, 0]


def _heaviest(weights: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row (B, V) the entries from the heaviest on, as many as weigh `mass` (B, 1), and
    their ids. On the CPU it takes 1.2 ms to sort the first of 16 x 4096, and 6.4 ms to sort all."""
    width = weights.shape[-1]
    first, ids = weights.topk(min(FIRST, width), dim=-1)
    short = (first.sum(dim=-1, keepdim=True, dtype=torch.float64) < mass)[:, 0]
    if first.shape[-1] == width or not short.any():
        return first, ids
    # row by row, so that what a row draws among equals does not depend on its neighbours
    padding = (0, width - first.shape[-1])
    first, ids = F.pad(first, padding), F.pad(ids, padding)
    first[short], ids[short] = weights[short].sort(dim=-1, descending=True)
    return first, ids


def _uniform(*key: int) -> float:
    """A number of [0, 1) that depends on the key only; a generator would link the rows."""
    digest = hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") / 2**32
