"""static_cache: a KVCache as a compiled step sees it: one new token a row, and no number of
Python's that changes from step to step.

Shapes: B rows, H key/value heads, S slots that are looked at, C slots there are, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmkit.nn.attention import Mask
from lmkit.nn.cache import KVCache


class StaticCache(KVCache):
    """What a model is handed in place of the KVCache whose stores these are.

    Every row looks at the same S slots, its mask hides what is not its past. It has no `lengths`
    and no `counts`: a model that asks for them would be compiled anew for every token, so it fails
    with an AttributeError and is not compiled at all.

    Args:
        keys, values: a layer each, (B, H, C, D); written in place.
        positions: (B, 1) int64, of the new tokens.
        slots: (B, 1) int64, where they are stored. A row that brings none has the slot of its next
            token, where nobody looks before that is written.
        span: (S,) int64, the slots from 0 on that are looked at.
    """

    def __init__(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        positions: Tensor,
        slots: Tensor,
        span: Tensor,
    ) -> None:
        self.keys, self.values = list(keys), list(values)
        self.positions = positions
        self.slots = slots
        self.span = span
        self._masks: dict[int | None, Mask] = {}

    def append(
        self, layer: int, k: Tensor, v: Tensor, window: int | None = None, late: int = 0
    ) -> tuple[Tensor, Tensor, Mask]:
        """Store k, v (B, H, 1, D); give back what the queries see, (B, H, S, D) and their Mask.

        The keys of the last `late` heads are stored a slot further, as KVCache does it.
        """
        if window not in self._masks:
            self._masks[window] = Mask.at(self.positions, self.span, window)
        keys = self._written(self.keys[layer], k, late)
        return keys, self._written(self.values[layer], v, 0), self._masks[window]

    def last(self, x: Tensor) -> Tensor:
        """(B, 1, C) -> the same: the only new token is the last."""
        return x

    def _written(self, store: Tensor | None, new: Tensor, late: int) -> Tensor:
        assert store is not None  # the prefill has made it
        rows, heads = (torch.arange(n, device=new.device) for n in new.shape[:2])
        # of a full row, which is not read again, late keys go into its last slot
        slots = (self.slots + (heads >= len(heads) - late)).clamp(max=store.shape[2] - 1)
        # one index_put, which is compiled in place; a scatter_, or one to a part of the heads,
        # would copy the whole store
        store[rows[:, None], heads, slots] = new[:, :, 0].to(store.dtype)
        return store[:, :, : len(self.span)]
