"""shapes: the sizes that models are compared at, lmkit's experiments of them; trains nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmkit.errors import ConfigError, did_you_mean

HEAD_DIM = 128  # of gpt.GPT, as nanochat ships
GPT2_HEAD_DIM = 64
TOKENS = {"python4k": 4096, "gpt2": 50257}


@dataclass(frozen=True)
class Shape:
    """A transformer's measures and its batch.

    Attributes:
        context: tokens of a row.
        batch_tokens: of an optimizer step.
        vocabulary: rows of the embedding.
        tokenizer: a packaged one whose ids fit into it.
        micro_rows: rows that go through a peer's model at once; lmkit chooses for itself.
    """

    layers: int
    width: int
    context: int
    batch_tokens: int
    vocabulary: int = 4096
    tokenizer: str = "python4k"
    micro_rows: int = 32

    @property
    def batch_rows(self) -> int:
        """Rows of an optimizer step."""
        return self.batch_tokens // self.context

    @property
    def flops_per_token(self) -> int:
        """Of training, the same for all: 6 a weight that multiplies, and full attention."""
        blocks = 12 * self.layers * self.width**2
        attention = 12 * self.layers * self.width * self.context
        return 6 * (blocks + self.vocabulary * self.width) + attention

    def head_dim(self, wanted: int) -> int:
        """`wanted`, or the whole width where that is less."""
        return min(wanted, self.width)

    @property
    def suits_gpt2(self) -> bool:
        """Whether the tokenizer fills the vocabulary: GPT2's loss leaves out rows without an id."""
        return self.vocabulary - TOKENS[self.tokenizer] < 64


SHAPES = {
    "4x256": Shape(4, 256, 256, 4096),
    "6x384": Shape(6, 384, 256, 2048),
    # half a million tokens a step, as GPT-2's recipes and nanochat's have
    "124m": Shape(12, 768, 1024, 2**19, vocabulary=50304, tokenizer="gpt2"),
    "d20": Shape(20, 1280, 2048, 2**19, vocabulary=32768),
    "tiny": Shape(2, 64, 32, 128),
}

# as nanoGPT sets it for small batches (config/train_shakespeare_char.py)
NANOGPT_ADAMW: dict[str, Any] = {
    "class": "torch.optim.AdamW",
    "lr": 1e-3,
    "betas": [0.9, 0.99],
    "weight_decay": 0.1,
    "no_decay": ["scalars"],
}

ADAMW = {"class": "torch.optim.AdamW", "lr": 1e-3, "weight_decay": 0.1}


def named(name: str) -> Shape:
    """The shape of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SHAPES:
        hint = did_you_mean(name, SHAPES) or f"there are {', '.join(SHAPES)}"
        raise ConfigError(f"there is no shape {name!r}", hint=hint, at="--shapes")
    return SHAPES[name]


def gpt(shape: Shape, head_dim: int | None = None) -> dict[str, Any]:
    """lmkit's own architecture."""
    return {
        "class": "lmkit_models.gpt.GPT",
        "depth": shape.layers,
        "width": shape.width,
        "head_dim": shape.head_dim(head_dim or HEAD_DIM),
        "max_len": shape.context,
        "vocab_size": shape.vocabulary,
    }


def gpt2(shape: Shape) -> dict[str, Any]:
    """nanoGPT's architecture: no biases, tied head."""
    return {
        "class": "lmkit_models.gpt2.GPT2",
        "layers": shape.layers,
        "embedding_dim": shape.width,
        "heads": shape.width // shape.head_dim(GPT2_HEAD_DIM),
        "max_len": shape.context,
        "vocab_size": shape.vocabulary,
        "bias": False,
    }


def experiment(
    shape: Shape,
    model: Mapping[str, Any],
    *,
    steps: int,
    device: str = "cpu",
    compile: bool | str = "auto",
    text: str | None = None,
    **stage: Any,
) -> dict[str, Any]:
    """What a YAML would say: `model` in training for `steps` steps.

    Args:
        text: a file; the source of Python's standard library if there is none.
        stage: more keys of the only stage.
    """
    stdlib = {"class": "lmkit.data.corpora.PythonStdlib"}
    file = {"class": "lmkit.data.sources.TextFiles", "path": text, "holdout": 0.1}
    return {
        "name": "benchmark",
        "tokenizer": {"class": "lmkit.text.tokenizer.Tiktoken", "name": shape.tokenizer},
        "model": dict(model),
        "runner": {
            "class": "benchmarks.training.PausingRunner",
            "device": device,
            "compile": compile,
        },
        "stages": [
            {
                "name": "train",
                "data": file if text else stdlib,
                "steps": steps,
                "batch_size": shape.batch_rows,
                **stage,
            }
        ],
    }
