"""A stage's wishes become rows and steps, and what `auto` stands for says where it comes from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmkit.config import Spec, Stage
from lmkit.errors import ConfigError
from lmkit.text import Byte
from lmkit.train.plan import StagePlan, plan_stage
from lmkit_models.gpt import GPT
from lmkit_models.mlp import MLP

DATA = Spec("lmkit.data.corpora.PythonStdlib")


def plan(model: Any, rows: int = 1000, **wishes: Any) -> StagePlan:
    return plan_stage(Stage(name="a", data=DATA, **wishes), model, rows)


def gpt(depth: int, max_len: int = 2048) -> GPT:
    """nanochat's model of a depth, without its numbers."""
    with torch.device("meta"):
        return GPT(depth=depth, max_len=max_len, vocab_size=32_768, tokenizer=Byte())


@pytest.fixture(scope="module")
def small() -> MLP:
    return MLP(tokenizer=Byte(), embedding_dim=2, window=2, nodes=4, layers=1, max_len=10)


# depth -> tokens, batch, steps at 12 tokens a parameter: printed by base_train.py's own lines (at
# 92d63d4) for its own model with 32,768 entries
NANOCHAT = {
    4: (138_412_608, 262_144, 528),
    6: (278_398_224, 262_144, 1062),
    8: (503_318_784, 262_144, 1920),
    12: (1_321_210_944, 524_288, 2520),
    16: (2_818_581_504, 524_288, 5376),
    20: (5_221_922_880, 1_048_576, 4980),
    24: (8_757_727_488, 1_048_576, 8352),
}


@pytest.mark.parametrize("depth", NANOCHAT)
def test_horizon_and_batch_are_nanochats(depth: int) -> None:
    tokens, batch, steps = NANOCHAT[depth]
    model = gpt(depth)
    found = plan(model, tokens="auto", batch_tokens="auto")
    assert (found.batch_tokens, found.steps) == (batch, steps)
    assert found.tokens == steps * batch <= tokens
    size = f"{model.scaling_parameter_count():,} parameters of matrices and head"
    assert found.why["tokens"] == f"12 x {size} = {tokens:,} (nanochat)"
    assert plan(model, tokens=tokens, batch_tokens="auto").batch_tokens == batch


@pytest.mark.parametrize("ratio", [8, 10.5])
def test_d20_at_nanochats_other_ratios(ratio: float) -> None:
    tokens = int(ratio * 435_160_240)
    found = plan(gpt(20), tokens=tokens, batch_tokens="auto")
    assert found.batch_tokens == 1_048_576
    nanochats = {8: 3320, 10.5: 4357}[ratio]  # rounded down
    assert found.steps == nanochats + 1, "what is written as a number is reached"


def test_where_the_batch_comes_from() -> None:
    found = plan(gpt(20), tokens="auto", batch_tokens="auto")
    assert found.why["batch_tokens"] == (
        "2^19 x (5.22B / 1.32B tokens)^0.383 = 887,496, as a power of two (nanochat)"
    )
    assert plan(gpt(20), tokens=2**30, batch_tokens=2**20).why == {}


def test_a_batch_for_steps() -> None:
    """The length follows from the batch, and the batch from the length."""
    found = plan(gpt(20), steps=4980, batch_tokens="auto")
    assert (found.steps, found.batch_tokens) == (4980, 1_048_576)
    assert "(3.99B / 1.32B tokens)^0.383 = 800,209" in found.why["batch_tokens"]


def test_a_batch_for_epochs_and_in_whole_rows(small: MLP) -> None:
    found = plan(small, rows=13_000, epochs=2, batch_tokens="auto")
    # 260,000 tokens: 2^19 x (0.00026 / 1.32)^0.383 = 19,971
    assert found.batch_tokens == 16_380, "16,384 in rows of 10"
    assert found.why["batch_tokens"].endswith("power of two and whole rows of 10 (nanochat)")
    assert found.steps == -(-26_000 // 1638)
    assert plan(small, rows=1, epochs=1, batch_tokens="auto").steps == 1


def test_the_other_lengths(small: MLP) -> None:
    assert plan(small, steps=7, batch_size=3).last_row == 21
    assert plan(small, tokens=101, batch_tokens=50).last_row == 15, "at least so many"
    ragged = plan(small, rows=10, epochs=1, batch_size=4)
    assert (ragged.steps, ragged.last_row) == (3, 10)


@pytest.mark.parametrize(
    ("wishes", "said", "key"),
    [
        ({"steps": 1, "batch_tokens": 17}, "no multiple .* 10; nearest: 10 or 20", "batch_tokens"),
        ({"epochs": 0.0001}, "no step: 0.0001 epochs of 1000 rows", "epochs"),
    ],
)
def test_wishes_that_cannot_be(small: MLP, wishes: dict[str, Any], said: str, key: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        plan(small, **wishes)
    assert caught.value.key == key


def test_auto_needs_parameters_that_multiply(small: MLP) -> None:
    small.scaling_parameter_count = lambda: 0  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="MLP has none; write a number of tokens"):
        plan(small, tokens="auto")
