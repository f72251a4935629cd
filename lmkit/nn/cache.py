"""cache: what a model remembers of the tokens it has read; knows nothing of sampling or text.

A decoder calls `begin(counts)`, runs the model, then calls `commit()`. Rows may have different
lengths: the new tokens are padded on the right, and `counts` says how many of each row are real.
Lengths are Python ints, so no layer ever asks the device where it stands; what all layers share is
worked out once, in `begin`.

Shapes: B rows, T new tokens, S slots, H key/value heads, D head width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add

import torch
from torch import Tensor

from lmkit.errors import ModelError
from lmkit.nn.attention import Mask
from lmkit.nn.offset import offset_keys


class Cache:
    """The rows' lengths, and where their new tokens stand.

    A subclass that remembers more overrides `reset`, and these, if it can: `take`, or else every
    sample gets a prefill of its own and rows that have ended stay; `put`, or else waiting prompts
    wait until all rows have ended; `rewind`, or else nothing can be guessed ahead.

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
        self.every = False
        self.positions = torch.zeros(batch_size, 0, dtype=torch.long, device=self.device)

    def begin(self, counts: Sequence[int], every: bool = False) -> None:
        """Open a forward over `counts[b]` new tokens of row b, padded to T = max(counts).

        Sets `positions` (B, T), int64: a padded place repeats its row's last real position.

        Args:
            every: the logits of all new tokens are wanted, not only each row's last; see `last`.

        Raises:
            ModelError: a row would outgrow the cache, or another number of counts than of rows.
        """
        if len(counts) != len(self.lengths):
            raise ModelError(f"{len(counts)} counts for a cache of {len(self.lengths)} rows")
        longest = max(map(add, self.lengths, counts))
        if self.capacity is not None and longest > self.capacity:
            raise ModelError(
                f"{longest} tokens do not fit into a cache of {self.capacity}",
                hint="make_cache(batch_size, length) with a greater length",
            )
        self.counts = list(counts)
        self.every = every
        self.positions = self._positions(max(counts))

    def _positions(self, steps: int) -> Tensor:
        rows, first = len(self.counts), self.lengths[0]
        if min(self.counts) == steps and self.lengths.count(first) == rows:
            return torch.arange(first, first + steps, device=self.device).expand(rows, -1)
        starts = torch.tensor(self.lengths, device=self.device)[:, None]
        if min(self.counts) == steps == 1:
            return starts
        last = torch.tensor(self.counts, device=self.device)[:, None] - 1
        places = torch.arange(steps, device=self.device)
        return (starts + places.minimum(last)).clamp_(min=0)

    def commit(self) -> None:
        """Close the forward: the new tokens now belong to the rows."""
        self.lengths = list(map(add, self.lengths, self.counts))
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

    def put(self, rows: Sequence[int], other: Cache) -> None:
        """Row `rows[i]` becomes what row i of `other` is, between two forwards of either.

        So a prompt that was read by itself enters rows that are under way. `other` was made by the
        same model, perhaps for fewer tokens.

        Raises:
            ModelError: a row of `other` holds more than this cache can.
        """
        longest = max(other.lengths, default=0)
        if self.capacity is not None and longest > self.capacity:
            raise ModelError(f"{longest} tokens do not fit into a cache of {self.capacity}")
        for row, length in zip(rows, other.lengths, strict=True):
            self.lengths[row] = length

    @property
    def can_take(self) -> bool:
        """Whether this class has written a `take` for what it remembers."""
        return type(self).take is not Cache.take

    @property
    def can_put(self) -> bool:
        """Whether it has written a `put`."""
        return type(self).put is not Cache.put

    @property
    def can_rewind(self) -> bool:
        """Whether it has written a `rewind`, so that the last tokens alone can be forgotten."""
        return type(self).rewind is not Cache.rewind

    def last(self, x: Tensor) -> Tensor:
        """What the head is to read: (B, T, C) -> (B, 1, C), each row's last real new token.

        All of x, if the forward was opened with `every`.
        """
        return x if self.every else self._at_last(x)

    def _at_last(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1 or min(self.counts) == x.shape[1]:
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

    def put(self, rows: Sequence[int], other: Cache) -> None:
        super().put(rows, other)
        if not isinstance(other, StateCache):
            raise ModelError(f"a {type(other).__qualname__} cannot be put into a StateCache")
        for name, new in other.states.items():
            self.states[name] = state = self.recall(
                name, new.new_zeros(len(self.lengths), *new.shape[1:])
            )
            state[list(rows)] = new

    def recall(self, name: str, like: Tensor) -> Tensor:
        """The state kept under `name`, (B, C); zeros of the shape and dtype of `like` at first."""
        return self.states.get(name, torch.zeros_like(like))

    def remember(self, name: str, x: Tensor) -> None:
        """Keep each row's last real place of x (B, T, C); a row without any keeps what it had."""
        new = self._at_last(x)[:, 0]
        if min(self.counts) == 0:
            moved = torch.tensor(self.counts, device=x.device)[:, None] > 0
            new = torch.where(moved, new, self.recall(name, new))
        self.states[name] = new.clone()


class KVCache(Cache):
    """Keys and values of every layer, (B, H, S, D) each, allocated once at the first append.

    On the CPU they are float32 whatever the model's dtype: one bf16 query over 256 keys takes
    5-6 times as long there. What is written for padding lies behind its row's last token, where no
    query looks and the next token is written; of a full row in a slot more than `length`.
    """

    def __init__(
        self, batch_size: int, length: int, *, layers: int, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(batch_size, length, device)
        self.spare = length  # the slot where a full row's padding is written
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        # of the forward that is open:
        self._stop = 0  # one past the last slot in use once its tokens are
        self._fresh = True  # no row has read anything before it
        self._slots: Tensor | None = None  # (B, T), where they go; None: the same for all rows
        self._places: dict[tuple[int, int, int], Tensor] = {}
        self._views: dict[int | None, tuple[int, Mask]] = {}

    def rewind(self, lengths: Sequence[int]) -> None:
        self.lengths = [min(n, most) for n, most in zip(self.lengths, lengths, strict=True)]

    def take(self, rows: Sequence[int]) -> None:
        super().take(rows)
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        used = max(self.lengths, default=0) + 1  # with the key that waits for the next token
        self.keys = [_taken(store, index, used) for store in self.keys]
        self.values = [_taken(store, index, used) for store in self.values]

    def put(self, rows: Sequence[int], other: Cache) -> None:
        super().put(rows, other)
        if not isinstance(other, KVCache):
            raise ModelError(f"a {type(other).__qualname__} cannot be put into a KVCache")
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        used = max(other.lengths, default=0) + 1  # with the key that waits for the next token
        for own, others in ((self.keys, other.keys), (self.values, other.values)):
            for layer, new in enumerate(others):
                if new is not None:
                    own[layer] = store = self._allocated(own[layer], new)
                    store[:, :, :used].index_copy_(0, index, new[:, :, :used])

    def begin(self, counts: Sequence[int], every: bool = False) -> None:
        super().begin(counts, every)
        steps = self.positions.shape[1]
        self._stop = max(map(add, self.lengths, self.counts))
        self._fresh = not any(self.lengths)
        self._views = {}
        self._places = {}
        self._slots = None
        if self.lengths.count(self.lengths[0]) < len(self.lengths):
            starts = torch.tensor(self.lengths, device=self.device)[:, None]
            slots = starts + torch.arange(steps, device=self.device) if steps > 1 else starts
            self._slots = slots.clamp(max=self.spare)

    def append(
        self, layer: int, k: Tensor, v: Tensor, window: int | None = None, late: int = 0
    ) -> tuple[Tensor, Tensor, Mask]:
        """Store k, v (B, H, T, D) of the new tokens; give back all that the queries may see.

        Returns keys and values (B, H, S', D) and the Mask (T, S') for `attend`. With a window
        (keys a query sees, itself included) only the slots that any row can see come back. The
        keys of the last `late` heads come back as `offset_keys` moves them: each is stored a slot
        further, so that a row's last one waits there for the next token.
        """
        self.keys[layer] = keys = self._write(self.keys[layer], k, late)
        self.values[layer] = values = self._write(self.values[layer], v, 0)
        view = self._views.get(window)
        if view is None:
            view = self._views[window] = self._view(window)
        start, mask = view
        if self._fresh:  # a prefill has no need of the cache's own dtype
            return offset_keys(k, late), v, mask
        return keys[:, :, start : self._stop], values[:, :, start : self._stop], mask

    def _allocated(self, store: Tensor | None, like: Tensor) -> Tensor:
        """The store; a new one for (., H, ., D) where there is none yet."""
        if store is not None:
            return store
        dtype = torch.float32 if like.device.type == "cpu" else like.dtype
        shape = len(self.lengths), like.shape[1], self.spare + 1, like.shape[3]
        return like.new_zeros(shape, dtype=dtype)

    def _write(self, store: Tensor | None, new: Tensor, late: int) -> Tensor:
        store = self._allocated(store, new)
        if self._slots is None:
            in_time, start, stop = new.shape[1] - late, self.lengths[0], self._stop
            store[:, :in_time, start:stop] = new[:, :in_time]
            if late:
                store[:, in_time:, start + 1 : stop + 1] = new[:, in_time:]
        else:
            flat = new.reshape(-1, new.shape[3]).to(store.dtype)
            store.view(-1, new.shape[3]).index_copy_(0, self._places_in(store, late), flat)
        return store

    def _places_in(self, store: Tensor, late: int) -> Tensor:
        """(B * H * T,): where the new tokens stand in a store laid out as (B * H * S, D)."""
        batch, heads, slots, _ = store.shape
        places = self._places.get((heads, slots, late))
        if places is None:
            assert self._slots is not None
            of_heads = torch.arange(batch * heads, device=store.device).view(batch, heads, 1)
            further = (torch.arange(heads, device=store.device) >= heads - late).long()[:, None]
            own = (self._slots[:, None] + further).clamp_(max=self.spare)
            places = (of_heads * slots + own).flatten()
            self._places[heads, slots, late] = places
        return places

    def _view(self, window: int | None) -> tuple[int, Mask]:
        """First slot that any query may see, and who may see which of the slots from there on."""
        steps = self.positions.shape[1]
        start = 0 if window is None else max(0, min(self.lengths) + 1 - window)
        if self._fresh:  # padding comes after what is real, so nothing real sees it
            return start, Mask.causal(steps, self.device, window=window)
        if self._slots is None and steps == 1:
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
