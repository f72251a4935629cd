"""cache: what a model remembers of the tokens it has read; knows nothing of sampling or text.

A decoder calls `begin(counts)`, runs the model, then calls `commit()`. Rows may have different
lengths: the new tokens are padded on the right, and `counts` says how many of each row are real.
Lengths are Python ints, so no layer ever asks the device where it stands.

Shapes: B rows, T new tokens, S slots, H key/value heads, D head width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmkit.errors import ModelError
from lmkit.nn.attention import Mask


class Cache:
    """The rows' lengths, and where their new tokens stand.

    A subclass that remembers more overrides `reset`, and `take` if its rows are to be copied and
    dropped; without `take`, generation gives every sample a prefill of its own and lets rows that
    have ended stay.

    Args:
        batch_size: rows, B.
        length: tokens a row may hold; None for a model whose memory does not grow.
        device: where the model runs.
    """

    def __init__(
        self, batch_size: int, length: int | None, device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.capacity = length
        self.lengths = [0] * batch_size
        self.counts = [0] * batch_size
        self.positions = torch.zeros(batch_size, 0, dtype=torch.long, device=self.device)

    def begin(self, counts: Sequence[int]) -> None:
        """Open a forward over `counts[b]` new tokens of row b, padded to T = max(counts).

        Sets `positions` (B, T), int64: a padded place repeats its row's last real position.
        Raises ModelError when a row would outgrow the cache.
        """
        if len(counts) != len(self.lengths):
            raise ModelError(f"{len(counts)} counts for a cache of {len(self.lengths)} rows")
        longest = max(n + count for n, count in zip(self.lengths, counts, strict=True))
        if self.capacity is not None and longest > self.capacity:
            raise ModelError(
                f"{longest} tokens do not fit into a cache of {self.capacity}",
                hint="make_cache(batch_size, length) with a greater length",
            )
        self.counts = list(counts)
        starts = torch.tensor(self.lengths, device=self.device)[:, None]
        last = torch.tensor(self.counts, device=self.device)[:, None] - 1
        steps = torch.arange(max(counts), device=self.device)
        self.positions = (starts + steps.minimum(last)).clamp_(min=0)

    def commit(self) -> None:
        """Close the forward: the new tokens now belong to the rows."""
        self.lengths = [n + count for n, count in zip(self.lengths, self.counts, strict=True)]
        self.counts = [0] * len(self.lengths)

    def reset(self, rows: Sequence[int]) -> None:
        """Forget these rows, as if nothing had been read."""
        for row in rows:
            self.lengths[row] = 0

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget what row b has read after its first `lengths[b]` tokens.

        A memory that cannot be turned back, as a state, forgets the row whole: `self.lengths` says
        what is left.
        """
        self.reset([row for row, n in enumerate(lengths) if self.lengths[row] > n])

    def take(self, rows: Sequence[int]) -> None:
        """Row i becomes what row `rows[i]` was, between two forwards.

        A row named twice is copied, as for several samples of one prompt; one not named is dropped.
        """
        self.lengths = [self.lengths[row] for row in rows]
        self.counts = [0] * len(rows)
        self.positions = self.positions[list(rows)]

    @property
    def can_take(self) -> bool:
        """Whether this class has written a `take` for what it remembers."""
        return type(self).take is not Cache.take

    def last(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, 1, C): what stands at each row's last real new token."""
        if min(self.counts) == x.shape[1]:
            return x[:, -1:]
        index = torch.tensor([max(count - 1, 0) for count in self.counts], device=x.device)
        return x.gather(1, index[:, None, None].expand(-1, 1, x.shape[2]))


class StateCache(Cache):
    """For recurrent models: named states, one vector a row each, so a row may grow without end."""

    def __init__(self, batch_size: int, device: torch.device | str = "cpu") -> None:
        super().__init__(batch_size, None, device)
        self.states: dict[str, Tensor] = {}

    def reset(self, rows: Sequence[int]) -> None:
        super().reset(rows)
        for state in self.states.values():
            state[list(rows)] = 0

    def take(self, rows: Sequence[int]) -> None:
        super().take(rows)
        self.states = {name: state[list(rows)] for name, state in self.states.items()}

    def recall(self, name: str, like: Tensor) -> Tensor:
        """The state kept under `name`, (B, C); zeros of the shape and dtype of `like` at first."""
        return self.states.get(name, torch.zeros_like(like))

    def remember(self, name: str, x: Tensor) -> None:
        """Keep each row's last real place of x (B, T, C); a row without any keeps what it had."""
        new = self.last(x)[:, 0]
        if min(self.counts) == 0:
            moved = torch.tensor(self.counts, device=x.device)[:, None] > 0
            new = torch.where(moved, new, self.recall(name, new))
        self.states[name] = new.clone()


class KVCache(Cache):
    """Keys and values of every layer, (B, H, S, D) each, allocated once at the first append.

    On the CPU they are float32 whatever the model's dtype: one bf16 query over 256 keys takes
    5-6 times as long there. One slot more than `length` takes what is written for padding.
    """

    def __init__(
        self, batch_size: int, length: int, *, layers: int, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(batch_size, length, device)
        self.spare = length  # the slot where padding is written
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self._slots: Tensor | None = None
        self._views: dict[int | None, tuple[int, Mask]] = {}

    def rewind(self, lengths: Sequence[int]) -> None:
        self.lengths = [min(n, most) for n, most in zip(self.lengths, lengths, strict=True)]

    def take(self, rows: Sequence[int]) -> None:
        super().take(rows)
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        used = max(self.lengths, default=0)
        self.keys = [_taken(store, index, used) for store in self.keys]
        self.values = [_taken(store, index, used) for store in self.values]

    def begin(self, counts: Sequence[int]) -> None:
        super().begin(counts)
        self._views = {}
        self._slots = None
        if not self._even:
            steps = torch.arange(self.positions.shape[1], device=self.device)
            real = steps < torch.tensor(self.counts, device=self.device)[:, None]
            self._slots = torch.where(real, self.positions, self.spare)

    def append(
        self, layer: int, k: Tensor, v: Tensor, window: int | None = None
    ) -> tuple[Tensor, Tensor, Mask]:
        """Store k, v (B, H, T, D) of the new tokens; give back all that the queries may see.

        Returns keys and values (B, H, S', D) and the Mask (T, S') for `attend`. With a window
        (keys a query sees, itself included) only the slots that any row can see come back.
        """
        self.keys[layer] = keys = self._write(self.keys[layer], k)
        self.values[layer] = values = self._write(self.values[layer], v)
        if window not in self._views:
            self._views[window] = self._view(window)
        start, mask = self._views[window]
        if max(self.lengths) == 0:  # a prefill has no need of the cache's own dtype
            return k, v, mask
        return keys[:, :, start : self._stop], values[:, :, start : self._stop], mask

    @property
    def _stop(self) -> int:
        """One past the last slot that is in use once the new tokens are."""
        return max(n + count for n, count in zip(self.lengths, self.counts, strict=True))

    @property
    def _even(self) -> bool:
        """All rows stand at the same place and bring equally many tokens."""
        return min(self.lengths) == max(self.lengths) and min(self.counts) == max(self.counts)

    def _write(self, store: Tensor | None, new: Tensor) -> Tensor:
        if store is None:
            dtype = torch.float32 if new.device.type == "cpu" else new.dtype
            batch, heads, _, width = new.shape
            store = new.new_zeros(batch, heads, self.spare + 1, width, dtype=dtype)
        if self._slots is None:
            start = self.lengths[0]
            store[:, :, start : start + new.shape[2]] = new
        else:
            rows = torch.arange(len(self.lengths), device=new.device)[:, None]
            store[rows, :, self._slots] = new.transpose(1, 2).to(store.dtype)
        return store

    def _view(self, window: int | None) -> tuple[int, Mask]:
        """First slot that any query may see, and who may see which of the slots from there on."""
        steps = self.positions.shape[1]
        start = 0 if window is None else max(0, min(self.lengths) + 1 - window)
        if max(self.lengths) == 0:  # padding comes after what is real, so nothing real sees it
            return start, Mask.causal(steps, self.device, window=window)
        if self._even and steps == 1:
            return start, Mask.all()
        slots = torch.arange(start, self._stop, device=self.device)
        return start, Mask.at(self.positions, slots, window)


def _taken(store: Tensor | None, rows: Tensor, used: int) -> Tensor | None:
    """The rows of a store, of which the first `used` slots hold something."""
    if store is None:
        return None
    # zeros, not empty: where a row is shorter than others a masked slot is read, times 0
    taken = store.new_zeros(len(rows), *store.shape[1:])
    taken[:, :, :used] = store[:, :, :used][rows]
    return taken
