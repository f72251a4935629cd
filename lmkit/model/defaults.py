"""defaults: the optimizers of a model whose author says nothing of them; knows no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# Of tables with a row a token: a row moves only when its token occurs, so it has to move further
# (and must not fade in the meantime). Held-out bits per byte after 60 steps of 4,096 tokens of
# Python, with the rate of all else and with this one: a GPT-2 of 1.9 M parameters, untied, 2.746
# and 2.592; a GRU 2.776 and 2.678. Positions, which occur in every row, lose by it: 2.732 and 2.926
# with a tied head.
TABLE_RATE = 0.02


def default_specs(scaling_parameters: int, tables: Sequence[str]) -> list[dict[str, Any]]:
    """AdamW, without decay on gains and biases.

    The rate falls with the model's size as in Kaplan et al. (arXiv 2001.08361, appendix D.6):
    0.0032 - 0.00014 ln(N), 1.1e-3 at 4 M parameters and 6e-4 at 124 M.

    Args:
        scaling_parameters: N, those of matrices and head.
        tables: names of the embeddings with a row a token that are no head too.
    """
    adamw = {"class": "lmkit.optim.AdamW", "betas": [0.9, 0.95]}
    rest = adamw | {
        "lr": max(1e-4, 0.003239 - 0.0001395 * math.log(scaling_parameters)),
        "weight_decay": 0.1,
        "no_decay": ["scalars"],
        "why": f"0.0032 - 0.00014 ln({scaling_parameters:,} parameters) (Kaplan et al.)",
    }
    why = "of rows that move only when their token occurs"
    own = {"params": [*tables], "lr": TABLE_RATE, "weight_decay": 0.0, "why": why}
    return [adamw | own, rest] if tables else [rest]
