"""precision: which dtype activations have; the policy itself is the runner's."""

from __future__ import annotations

import torch


def activation_dtype(device: torch.device | str, default: torch.dtype | None = None) -> torch.dtype:
    """The dtype of the autocast that is active for `device`; otherwise `default`, or torch's own.

    A model casts its embedding to it: then the residual stream, the norms and all gradients stay in
    it, where autocast alone would go back to float32 after every layer.
    """
    kind = torch.device(device).type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return default or torch.get_default_dtype()
