"""rates: nanochat's optimizers and learning rates, scaled to a training; knows no model.

The table is that of nanochat (github.com/karpathy/nanochat, gpt.py and base_train.py at 92d63d4).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lmkit.model.scaling import REFERENCE_BATCH, REFERENCE_TOKENS, best_tokens

# Every rate was found at a batch of 2**19 tokens, a width of 768 and on 1.3 G tokens of text.
# Shorter trainings want higher ones, by this power of their length: swept at
# 2 layers x 128, the best factors on the table were about 0.35, 0.8 and 2.8 or more at batches of
# 1,024, 4,096 and 16,384 tokens on 1 M tokens, and 0.5 at 4,096 on 4 M, where 1.4 cost 0.15 bits
# per byte. The rule gives 0.38, 0.76, 1.5 and 0.50. Bjorck et al. (arXiv 2409.19913) found the
# power 0.32 at 50 M to 3 G.
REFERENCE_WIDTH = 768
HORIZON_POWER = 0.3
MUON_RATE, MUON_DECAY = 0.02, 0.28


def nanochat_optimizers(
    parts: Collection[str], width: int, parameters: int, batch_tokens: int, steps: int
) -> list[dict[str, Any]]:
    """Muon for the matrices, AdamW for what there is of the rest.

    All rates go with the square root of the batch and, below 1.3 G tokens of text, with their
    number to the power -0.3; AdamW's for embeddings and head with width**-0.5 too. Muon's decay
    goes with the square root of the batch and against the horizon, which counts as 12 tokens a
    parameter at least.

    Args:
        parts: groups and names of the model's parameters.
        width: channels of its residual stream.
        parameters: those in matrices and head.
        batch_tokens: tokens of a step.
        steps: of the training.

    Returns:
        what `optimizers:` of a stage would say; `why` tells how each rate came about.
    """
    ratio = batch_tokens / REFERENCE_BATCH
    short = max(1.0, REFERENCE_TOKENS / (batch_tokens * steps)) ** HORIZON_POWER
    batch = ratio**0.5 * short
    by_width = (width / REFERENCE_WIDTH) ** -0.5
    horizon = max(batch_tokens * steps, best_tokens(parameters))
    decay = MUON_DECAY * ratio**0.5 * REFERENCE_TOKENS / horizon
    by_batch = f"x {batch:.4g} for batch and horizon"
    by_both = f"x {by_width:.4g} for the width {by_batch}"
    table = {  # rate, what it is scaled by, betas, weight decay
        "head": (0.008, by_width * batch, by_both, (0.8, 0.96), 0.01),
        "embeddings": (0.3, by_width * batch, by_both, (0.8, 0.995), 0.001),
        "value_embeddings": (0.15, by_width * batch, by_both, (0.8, 0.995), 0.01),
        "residual_scale": (0.005, batch, by_batch, (0.8, 0.95), 0.05),
        "embedding_scale": (0.5, batch, by_batch, (0.96, 0.95), 0.0),
    }
    muon = {
        "class": "lmkit.optim.muon.Muon",
        "params": ["matrices"],
        "lr": MUON_RATE * batch,
        "weight_decay": decay,
        "why": f"{MUON_RATE} {by_batch}, {MUON_DECAY} x {decay / MUON_DECAY:.4g} for batch "
        "and horizon (nanochat)",
    }
    adamw = {"class": "lmkit.optim.AdamW", "eps": 1e-10}
    return [muon] + [
        adamw
        | {"params": [part], "lr": rate * scale, "betas": list(betas), "weight_decay": wd}
        | {"why": f"{rate} {said} (nanochat)"}
        for part, (rate, scale, said, betas, wd) in table.items()
        if part in parts
    ]
