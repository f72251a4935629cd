"""sampling: logits in, one id a row out; knows nothing of models or text.

B rows, V entries of the vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmkit.errors import ConfigError, NumericError


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
    broken = ~logits.amax(dim=-1).isfinite()  # a NaN wins every maximum
    if seen is not None:
        logits = _penalize(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        ids = logits.argmax(dim=-1)
    else:
        own = [(sampling.seed, row) for row in rows] if seeds is None else [(s,) for s in seeds]
        draws = [_uniform(*key, n) for key, n in zip(own, steps, strict=True)]
        # from the maximum down, so that no temperature is too small to divide by
        scaled = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
        # Apple's GPUs have no float64
        home = torch.device("cpu") if scaled.device.type == "mps" else scaled.device
        chances = torch.tensor(draws, dtype=torch.float64)
        ids = _draw(scaled.to(home), sampling, chances).to(broken.device)
    chosen: list[int] = torch.where(broken, -1, ids).tolist()
    if -1 in chosen:
        at = chosen.index(-1)
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
    """(B, V) logits and (B,) numbers of [0, 1) to (B,) ids, by inversion of the distribution."""
    ids = None
    if sampling.top_k is not None:
        logits, ids = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1)
    elif sampling.top_p < 1:
        logits, ids = logits.sort(dim=-1, descending=True)
    # float64: float32's rounding over 50,000 entries is larger than the small probabilities
    shares = logits.double().softmax(dim=-1)
    if sampling.top_p < 1:
        before = shares.cumsum(dim=-1) - shares
        shares = shares.masked_fill(before >= sampling.top_p, 0.0)
    if sampling.min_p > 0:
        least = sampling.min_p * shares.amax(dim=-1, keepdim=True)
        shares = shares.masked_fill(shares < least, 0.0)
    cumulative = shares.cumsum(dim=-1)
    goal = draws.to(cumulative)[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, goal, right=True)
    return (place if ids is None else ids.gather(1, place))[:, 0]


def _uniform(*key: int) -> float:
    """A number of [0, 1) that depends on the key only; a generator would link the rows."""
    digest = hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") / 2**32
