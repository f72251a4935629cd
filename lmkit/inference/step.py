"""step: one new token a row, compiled; on CUDA one launch. Knows no texts and chooses no ids."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmkit.inference.replay import Board
from lmkit.nn.cache import Cache, KVCache
from lmkit.nn.static_cache import StaticCache

logger = logging.getLogger(__name__)

BOARDS = 4  # kept at a time; each has the keys and values of its rows


class Model(Protocol):
    """What a Stepper needs of a model; every LMBase has it."""

    def logits(self, tokens: Tensor, *, cache: Cache | None = None) -> Tensor:
        """(B, T) int64 -> logits (B, T, V); (B, 1, V) of each row's last token will do."""

    def parameters(self) -> Iterable[nn.Parameter]: ...

    def buffers(self) -> Iterable[Tensor]: ...


class Stepper:
    """A model as `decode` wants it (a Forward), that reads one new token a row by compiled code.

    What else there is to read goes the plain way: prompts, several tokens a row, and all of a model
    that has no KVCache. Two graphs are compiled, one for a single row and one for any number of
    rows; how far the cache is filled, or how much it can hold, changes neither. On CUDA each number
    of rows is recorded as a CUDA graph too. A model that cannot be compiled is named in a warning,
    once, and goes the plain way.

    Make one a model: it keeps what it has compiled. A copy of it begins anew.

    Args:
        model: may change from one text to the next, but not while a text is written.
        backend: of torch.compile.
    """

    def __init__(self, model: Model, backend: str | Callable[..., Any] = "inductor") -> None:
        self.model = model
        self.backend = backend
        self._failed = False
        self._compiled: Callable[..., Tensor] | None = None
        self._store: weakref.ref[Tensor] | None = None  # the first one of the last step,
        self._seen = 0  # and its slots that were looked at
        self._boards: list[Board] = []
        self._weights: list[int] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, self.backend)

    def __call__(self, tokens: Tensor, cache: Cache | None) -> Tensor:
        """tokens (B, T) -> logits (B, T, V) or those of each row's last, (B, 1, V)."""
        if not self._failed and _is_step(cache, tokens):
            # a second to import
            from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

            try:
                with torch.no_grad():
                    return self._step(tokens, cache)
            except (TorchDynamoException, FailOnRecompileLimitHit) as error:
                self._failed = True
                logger.warning(
                    "%s: the step is not compiled: %s", type(self.model).__qualname__, cause(error)
                )
        return self.model.logits(tokens, cache=cache)

    def _step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        # Where the new tokens are stored, and their positions. A row that brings none stores what
        # comes of its padding where its next token will be; behind a full row there is no position.
        last = cache.spare - 1
        places = torch.tensor([cache.lengths, [min(n, last) for n in cache.lengths]])[..., None]
        seen, device = max(cache.lengths) + 1, tokens.device
        if replays(device):
            return self._board(cache).step(self._traced, tokens, places, seen)
        span = torch.arange(seen, device=device)
        return self._traced(tokens, places.to(device), span, cache.keys, cache.values)

    def _traced(
        self,
        tokens: Tensor,
        places: Tensor,
        span: Tensor,
        keys: Sequence[Tensor | None],
        values: Sequence[Tensor | None],
    ) -> Tensor:
        """The compiled step. What may change is marked, or each change would be compiled anew."""
        last = self._store and self._store()
        follows = last is keys[0] and len(span) == self._seen + 1
        several = len(tokens) > 1
        _mark(span, 0)
        if several:
            _mark(tokens, 0)
            _mark(places, 1)
        for store in () if follows else chain(keys, values):
            _mark(store, 2)
            if several:
                _mark(store, 0)
        if self._compiled is None:
            self._compiled = self._compile(tokens.device)
        with unguarded() if follows else nullcontext():
            logits = self._compiled(tokens, places, span, keys, values)
        assert keys[0] is not None
        self._store, self._seen = weakref.ref(keys[0]), len(span)
        return logits

    def _compile(self, device: torch.device) -> Callable[..., Tensor]:
        model, on_cuda = self.model, device.type == "cuda"

        def step(
            tokens: Tensor, places: Tensor, span: Tensor, keys: list[Tensor], values: list[Tensor]
        ) -> Tensor:
            slots, positions = places
            # Written out, a query's attention is spread over the GPU; a kernel of its own would
            # work through all slots of a head in one place.
            with sdpa_kernel(SDPBackend.MATH) if on_cuda else nullcontext():
                cache = StaticCache(keys, values, positions, slots, span)
                return model.logits(tokens, cache=cache)

        options: dict[str, str | int | bool | Callable[..., Any]] | None = None
        if on_cuda and self.backend == "inductor":
            # with it a single row's matrices are read by generated code, together with what comes
            # before and after them (as in gpt-fast)
            options = {"coordinate_descent_tuning": True}
        return torch.compile(
            step, fullgraph=True, dynamic=False, backend=self.backend, options=options
        )

    def _board(self, cache: KVCache) -> Board:
        """Where this cache lives, or can."""
        for board in self._boards:
            if board.holds(cache):
                return board
        weights = [t.data_ptr() for t in chain(self.model.parameters(), self.model.buffers())]
        if weights != self._weights:  # the graphs would read where they were
            self._weights, self._boards = weights, []
        able = [board for board in self._boards if board.can_hold(cache)]
        board = able[0] if able else Board(cache)
        board.hold(cache)
        self._boards = [*(b for b in self._boards if b is not board), board][-BOARDS:]
        return board


def replays(device: torch.device) -> bool:
    """Whether steps are recorded as graphs there."""
    return device.type == "cuda"


def unguarded() -> AbstractContextManager[Any]:
    """Within it torch does not look through the model for what has changed since it was compiled.

    With int8 weights of 6 x 384 on the CPU that takes 0.3 of 3.1 ms a step. The first step over a
    cache, and the first after others, is guarded.
    """
    return torch.compiler.set_stance("default", skip_guard_eval_unsafe=True)


def cause(error: BaseException) -> str:
    """What made torch.compile fail, in a line."""
    first = getattr(error, "inner_exception", None) or error.__cause__ or error
    return f"{type(first).__name__}: {str(first).strip().splitlines()[0]}"


def _is_step(cache: Cache | None, tokens: Tensor) -> TypeGuard[KVCache]:
    """One token a row, over a cache that has read something."""
    return (
        type(cache) is KVCache
        and tokens.shape[1] == 1
        and all(store is not None for store in chain(cache.keys, cache.values))
    )


def _mark(tensor: Tensor | None, dimension: int) -> None:
    torch._dynamo.maybe_mark_dynamic(tensor, dimension)
