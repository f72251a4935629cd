"""replay: a step on a GPU as one launch; knows no model.

A CUDA graph reads and writes the addresses that it was recorded with. So what changes from step to
step is copied to where it stands, and the cache's keys and values live there. Without, a model of
124 M parameters waits for some hundred launches of its kernels longer than for its weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lmkit.nn.cache import KVCache

# tokens (B, 1), places (2, B, 1), span (S,), keys and values of every layer -> logits (B, 1, V)
Step = Callable[[Tensor, Tensor, Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor]

SHORTEST = 128  # slots looked at; from here on they double, and each doubling is a graph of its own
WARM_UP = 3  # runs before recording: the first compiles and tunes, libraries allocate in the next


class Board:
    """The addresses of all steps of B rows, and the graphs that were recorded over them.

    One cache at a time lives here; when it is gone the next one of as many rows moves in.
    """

    def __init__(self, cache: KVCache) -> None:
        store = cache.keys[0]
        assert store is not None  # the prefill has made it
        rows, device = len(store), store.device
        self.room = reach(cache.spare) + 1  # KVCache's own spare slot comes last
        self.tokens = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.places = torch.zeros(2, rows, 1, dtype=torch.long, device=device)
        self.span = torch.arange(self.room, device=device)
        self.keys = [_roomy(store, self.room) for store in cache.keys]
        self.values = [_roomy(store, self.room) for store in cache.values]
        self._cache = weakref.ref(cache)
        self._replays: dict[int, Callable[[], Tensor]] = {}

    def holds(self, cache: KVCache) -> bool:
        """Whether this cache lives here."""
        return cache.keys[0] is self.keys[0]

    def can_hold(self, cache: KVCache) -> bool:
        """Whether it could: nobody else does, and there is room."""
        tenant, store, own = self._cache(), cache.keys[0], self.keys[0]
        empty = tenant is None or not self.holds(tenant)
        return (
            empty
            and store is not None
            and cache.spare < self.room
            and (len(store), store.dtype) == (len(own), own.dtype)
        )

    def hold(self, cache: KVCache) -> None:
        """Move in: from now on the cache's stores are those of this board."""
        used = max(cache.lengths) + 1  # with the key that may wait for the next token
        for here, theirs in ((self.keys, cache.keys), (self.values, cache.values)):
            for own, store in zip(here, theirs, strict=True):
                assert store is not None
                own[:, :, used:] = 0  # a masked slot counts times 0, and 0 times NaN is NaN
                own[:, :, :used] = store[:, :, :used]
            theirs[:] = here
        self._cache = weakref.ref(cache)

    def step(self, step: Step, tokens: Tensor, places: Tensor, seen: int) -> Tensor:
        """What `step` gives, by a graph, where the first `seen` slots at least are looked at.

        tokens (B, 1); places (2, B, 1) on the CPU. The cache must live here.
        """
        self.tokens.copy_(tokens)
        self.places.copy_(places)
        seen = min(reach(seen), self.room)
        if seen not in self._replays:
            span = self.span[:seen]
            self._replays[seen] = record(
                lambda: step(self.tokens, self.places, span, self.keys, self.values),
                tokens.device,
            )
        return self._replays[seen]().clone()  # the next replay writes over it


def reach(slots: int) -> int:
    """The power of two that `slots` are rounded up to."""
    return max(SHORTEST, 1 << (slots - 1).bit_length())


def record(run: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Record what `run` launches; the result launches it again and gives the same tensor, filled
    anew. `run` must do the same thing however often it is called."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # the default one cannot be recorded
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        # thread_local: a thread that prefetches data may allocate meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def _roomy(store: Tensor | None, room: int) -> Tensor:
    assert store is not None
    return store.new_empty(*store.shape[:2], room, store.shape[3])
