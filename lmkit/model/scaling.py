"""scaling: how much text and how large a batch suit a model; numbers in, numbers out.

Both are laws that nanochat (github.com/karpathy/nanochat, base_train.py at 92d63d4) measured at
depth 12 with a vocabulary of 32,768 entries, and goes by at other depths. Far from there, as at a
few million tokens, they are guesses.
"""

from __future__ import annotations

import math

TOKENS_PER_PARAMETER = 12  # of matrices and head; nanochat's own sweeps found 10.5, later 12
REFERENCE_PARAMETERS = 110_100_912  # matrices and head of nanochat's depth 12
REFERENCE_TOKENS = TOKENS_PER_PARAMETER * REFERENCE_PARAMETERS  # 1.32 G
REFERENCE_BATCH = 2**19  # tokens; the best batch for them
# The best batch grows with this power of the training's length (Power Lines, Bergsma et al., arXiv
# 2505.13738).
BATCH_POWER = 0.383


def best_tokens(scaling_parameters: int) -> int:
    """Tokens to train a model on that has so many parameters in matrices and head."""
    return TOKENS_PER_PARAMETER * scaling_parameters


def best_batch(tokens: float) -> float:
    """Tokens of the best batch for a training of so many tokens, not rounded."""
    return REFERENCE_BATCH * (tokens / REFERENCE_TOKENS) ** BATCH_POWER


def best_batch_for_steps(steps: int) -> float:
    """The same for a training of so many steps: the B for which B = best_batch(steps * B)."""
    return best_batch(steps) ** (1 / (1 - BATCH_POWER))


def power_of_two(number: float) -> int:
    """The nearest power of two, by its exponent; 1 at least."""
    return int(2 ** max(0, round(math.log2(number))))
