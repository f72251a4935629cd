"""anomaly: which steps must not be taken, and what a run does about them; takes none itself.

A loss or gradient that is not finite would be in every weight and moment after one step. A spike, a
finite one far above those before it, often comes of damaged text, and can cost a run more than the
batch is worth.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lmkit.errors import ConfigError, NumericError
from lmkit.model import Loss
from lmkit.text import Batch

Policy = Literal["stop", "skip", "rollback"]

NORMAL = 1.4826  # times the median absolute deviation is the standard deviation of a normal spread
LEAST_SPREAD = 0.01  # of the median: a loss that hardly moves is no reason to call 1 % a spike


@dataclass(frozen=True, kw_only=True)
class OnAnomaly:
    """What a run does about a step that must not be taken.

    Args:
        policy: stop (exit code 4); skip its batch; or rollback: go back to the weights and
            optimizers of the last checkpoint, and on from here, so that all batches since then are
            left out. Nothing is trained on the batch in any case.
        in_a_row: how many may follow each other, or go back to the same checkpoint, before the run
            stops all the same,
        in_all: and how many there may be in the whole run.
        spikes: a loss or gradient norm so many standard deviations above the median of the last
            ones is an anomaly too, such as 8; none is by default.
        window: steps of those last ones; a quarter of it is waited for.
    """

    policy: Policy = "stop"
    in_a_row: int = 3
    in_all: int = 20
    spikes: float | None = None
    window: int = 128

    def __post_init__(self) -> None:
        for key, least in (("in_a_row", 1), ("in_all", 1), ("window", 8)):
            if getattr(self, key) < least:
                raise ConfigError(f"{key} must be at least {least}", key=key)
        if self.spikes is not None and self.spikes <= 0:
            raise ConfigError(f"spikes must be above 0, not {self.spikes}", key="spikes")


class Anomaly(NumericError):
    """A step that was not taken.

    Attributes:
        kind: not_finite or spike.
        loss: of the global batch,
        grad_norm: and the norm of its gradient.
        batch: this rank's rows,
        seed: and what the step's random numbers followed from; the learner adds them.
    """

    batch: Batch
    seed: int

    def __init__(self, kind: str, loss: Loss, grad_norm: float, why: str = "") -> None:
        why = why or f"loss {mean_of(loss):.4g}, gradient norm {grad_norm:.4g}"
        hint = "lower the learning rate, lengthen the warm-up, or set clip:"
        super().__init__(f"{why}: not stepped", hint=hint)
        self.kind = kind
        self.loss = loss
        self.grad_norm = grad_norm


def mean_of(loss: Loss) -> float:
    """Nats a token; waits for the device."""
    return loss.total.item() / max(loss.count, 1)


class Detector:
    """Tells an anomaly from a step, by the numbers of the steps before it.

    A spike is told by median and median absolute deviation, which half of the window being spikes
    would not move. Finite values only are remembered, and all of them: one NaN costs one step, and
    a level that has really risen is the normal one after half a window.
    """

    KINDS = ("", "not_finite", "spike")

    def __init__(self, spikes: float | None = None, window: int = 128) -> None:
        self.spikes = spikes
        self.window = window
        self.begin_stage()

    def begin_stage(self) -> None:
        """Forget: another stage has other losses."""
        self._history: dict[str, deque[float]] = {
            name: deque(maxlen=self.window) for name in ("loss", "gradient norm")
        }

    def judge(self, loss: Loss, grad_norm: float) -> Anomaly | None:
        """The anomaly that this step is, if it is one; call it once a step."""
        values = (mean_of(loss), grad_norm)
        if not all(map(math.isfinite, values)):
            return Anomaly("not_finite", loss, grad_norm)
        if self.spikes is None:
            return None
        found = None
        for (name, history), value in zip(self._history.items(), values, strict=True):
            if len(history) >= self.window // 4 and found is None:
                middle = statistics.median(history)
                spread = NORMAL * statistics.median(abs(each - middle) for each in history)
                spread = max(spread, LEAST_SPREAD * abs(middle))
                if value - middle > self.spikes * spread:
                    why = f"{name} {value:.4g}, the last {len(history)} have median {middle:.4g}"
                    found = Anomaly("spike", loss, grad_norm, why)
            history.append(value)
        return found

    def state_dict(self) -> dict[str, Any]:
        """JSON for the checkpoint."""
        return {name: list(history) for name, history in self._history.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the history of a checkpoint."""
        self.begin_stage()
        for name, values in state.items():
            self._history[name].extend(values)


class Anomalies:
    """The anomalies of a run: counts them, and says what becomes of each.

    Attributes:
        back_to: the name of the last checkpoint that was due; where rollback goes. One that a
            signal brought is none: the run would end otherwise than one without the signal.
    """

    def __init__(self, wishes: OnAnomaly) -> None:
        self.wishes = wishes
        self.detector = Detector(wishes.spikes, wishes.window)
        self.back_to: str | None = None
        self._row = 0
        self._all = 0

    def begin_stage(self) -> None:
        """Its first step has no past."""
        self.detector.begin_stage()
        self.back_to = None
        self._row = 0

    @property
    def needed(self) -> str | None:
        """The name of the checkpoint that has to stay."""
        return self.back_to if self.wishes.policy == "rollback" else None

    def saved(self, name: str) -> None:
        """A checkpoint that was due is about to be written."""
        if self.wishes.policy == "rollback":
            self._row = 0
        self.back_to = name

    def good(self) -> None:
        """A step was taken."""
        if self.wishes.policy != "rollback":
            self._row = 0

    def decide(self, anomaly: Anomaly) -> str | None:
        """The name of the checkpoint to go back to; None: the run goes on from where it is.

        Raises:
            Anomaly: the policy is to stop, this is one too many, or there is no such checkpoint.
        """
        self._row += 1
        self._all += 1
        wishes = self.wishes
        if wishes.policy == "stop":
            raise anomaly
        if self._row > wishes.in_a_row or self._all > wishes.in_all:
            anomaly.what += f" (number {self._row} in a row, {self._all} in all)"
            raise anomaly
        if wishes.policy == "rollback" and self.back_to is None:
            anomaly.what += ", and this stage has no checkpoint to go back to"
            raise anomaly
        return self.needed

    def state_dict(self) -> dict[str, Any]:
        """JSON for the checkpoint."""
        counts = {"row": self._row, "all": self._all, "back_to": self.back_to}
        return {**counts, "history": self.detector.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on as a checkpoint left it; one of lmkit 0.4 or older has no state."""
        if state is None:
            return
        self._row, self._all, self.back_to = state["row"], state["all"], state["back_to"]
        self.detector.load_state_dict(state["history"])
