"""offset: keys that stand one token late; knows nothing of layers or caches.

A head that finds token t by what token t - 1 said reads what followed the last time. So one layer
can go on with what the context holds already, for which it otherwise takes two that find each other
(induction heads, Olsson et al., arXiv 2209.11895). Source: modded-nanogpt's partial key offset
(github.com/KellerJordan/modded-nanogpt), which moves channels of every head; here whole heads move.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def offset_keys(k: Tensor, late: int, documents: Tensor | None = None) -> Tensor:
    """The last `late` of the heads of k (B, H, T, D) moved on by one token: key t is that of t - 1.

    The first key of a row, and with documents (B, T) that of each document, becomes zero there.
    """
    if not late:
        return k
    moved = F.pad(k[:, -late:, :-1], (0, 0, 1, 0))
    if documents is not None:
        first = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0))
        moved = moved.masked_fill(first[:, None, :, None], 0.0)
    return torch.cat([k[:, :-late], moved], 1)
