"""progress: how far a run has come, as plain numbers that a checkpoint keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Tally:
    """Sums over optimizer steps."""

    steps: int = 0
    samples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0

    def add(self, samples: int, tokens: int, trained_tokens: int, seconds: float) -> None:
        """Count one optimizer step."""
        self.steps += 1
        self.samples += samples
        self.tokens += tokens
        self.trained_tokens += trained_tokens
        self.seconds += seconds


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        stage_index: the stage under way.
        stage_step: optimizer steps done in it.
        position: rows of its stream that are consumed, over all ranks. Not steps times rows: the
            batch size may change on resume.
        validated_samples: by `validate`, which a caller drives by hand.
        overall: sums since the run began; `overall.steps` is the global step.
        stages: sums by stage name.
    """

    stage_index: int = 0
    stage_step: int = 0
    position: int = 0
    validated_samples: int = 0
    overall: Tally = field(default_factory=Tally)
    stages: dict[str, Tally] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Optimizer steps since the run began."""
        return self.overall.steps

    def enter_stage(self, index: int) -> None:
        """Begin stage `index` at its first row."""
        self.stage_index, self.stage_step, self.position = index, 0, 0

    def count(
        self, stage: str, samples: int, tokens: int, trained_tokens: int, seconds: float
    ) -> None:
        """Add one optimizer step to the sums."""
        for tally in (self.overall, self.stages.setdefault(stage, Tally())):
            tally.add(samples, tokens, trained_tokens, seconds)

    def state_dict(self) -> dict[str, Any]:
        """JSON for the checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Progress:
        """The inverse of `state_dict`."""
        stages = {name: Tally(**sums) for name, sums in state["stages"].items()}
        return cls(**{**state, "overall": Tally(**state["overall"]), "stages": stages})
