"""launch: the processes of one start of a run find each other, and each tells the others of its
end; knows no collective and no model.

Whoever starts them (torchrun, srun) tells each RANK and WORLD_SIZE, and MASTER_ADDR and
MASTER_PORT of a store of keys. torchrun keeps one store for all its restarts, so that a rank may
find there what a dead one has written: of 18 restarts 7 failed and 3 hung (torch 2.13).
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from lmkit.errors import DistributedError, Stopped
from lmkit.ranks.board import LEFT, Board, Failure
from lmkit.ranks.lost import GO_ON, LOST_HINT, is_of_collective, words_of
from lmkit.ranks.pulse import BEAT, Pulse

LOOK = 0.02  # seconds between two looks at a key
TELLING = 4 * BEAT  # a rank that lives has shown it by then, and one that failed has said why


@dataclass(frozen=True)
class End:
    """How this rank ends: `error`, and the `line` that it prints of it; None where another does."""

    error: Exception
    line: str | None


class Launch:
    """One start of a run's processes, as the rank `rank` of `size` sees it.

    Args:
        store: of this start only.
        pulse_store: the same keys, through another connection.
        kept_by_rank_0: the store lives as long as rank 0 does; torchrun keeps one itself.
    """

    def __init__(
        self,
        store: Store,
        pulse_store: Store,
        rank: int,
        size: int,
        *,
        kept_by_rank_0: bool = False,
    ) -> None:
        self.store = store
        self.rank = rank
        self.size = size
        self.left = False
        self._kept_by_rank_0 = kept_by_rank_0
        self._host = socket.gethostname()
        self._board = Board(store, rank, size)
        self._end: End | None = None
        self._pulse = Pulse(Board(pulse_store, rank, size), self._host, self._describe)
        self._pulse.start()
        atexit.register(self.leave)

    def agree(self, facts: Mapping[str, object]) -> None:
        """Wait for all ranks, and compare what should be the same on each.

        There is no limit to the waiting, as one rank may have texts to tokenise; a rank that ends
        meanwhile ends it.

        Raises:
            DistributedError: a fact of some rank is not that of rank 0, or a rank has ended.
        """
        mine = {name: _digest(value) for name, value in facts.items()}
        self.store.set(f"facts/{self.rank}", json.dumps(mine))
        if self.rank == 0:
            others = [json.loads(self._wait_for(f"facts/{r}")) for r in range(self.size)]
            if failure := self._disagreement(others):
                self._board.fail(failure)
            self.store.set("compared", "yes")
        self._wait_for("compared")
        if failure := self._board.failure():
            raise DistributedError(self._describe(failure))

    def fell(self, error: Exception) -> End:
        """Tell the other ranks that `error` ends this one, or hear from them why it does.

        An error of a collective only follows from another rank's end: that one is found, by what it
        said or by its silence. Any other is this rank's own, told if it is the first.
        """
        if self._end is not None:
            return self._end if self._end.error is error else End(error, words_of(error))
        if isinstance(error, Stopped) and self._heard() is None:
            return _stopped(error, self.rank)
        lost = isinstance(error, DistributedError | Stopped) or is_of_collective(error)
        try:
            failure = self._find_cause(error) if lost else None
            failure = failure or self._board.fail(self._failure(self.rank, words_of(error)))
            speaks = self._board.speaks(self._host, failure)
        except RuntimeError:  # the store is gone, and with it all that the others could say
            of_rank_0 = self._kept_by_rank_0 and self.rank > 0
            mine = self._failure(self.rank, words_of(error))
            failure, speaks = self._gone(0, error) if of_rank_0 else mine, True
        line = self._describe(failure)
        if failure.rank == self.rank:
            if is_of_collective(error):
                error = DistributedError(f"lost another rank: {failure.line}", hint=LOST_HINT)
            line = f"rank {self.rank} of {self.size}: {words_of(error)}"
        elif lost:
            error = DistributedError(line)
        self._end = End(error, line if speaks else None)
        return self._end

    def leave(self) -> None:
        """This rank is done; its silence means nothing from now on. Who keeps the store leaves
        last."""
        if self.left:
            return
        self.left = True
        self._pulse.stop()
        with suppress(RuntimeError):  # the launcher may have left before
            self._board.leave()
            deadline = time.monotonic() + TELLING
            while self.rank == 0 and self._kept_by_rank_0 and time.monotonic() < deadline:
                if all(beat == LEFT for beat in self._board.beats()):
                    break
                time.sleep(LOOK)

    def _wait_for(self, key: str) -> bytes:
        while not self.store.check([key]):
            failure = self._board.failure()
            gone = [rank for rank, beat in enumerate(self._board.beats()) if beat == LEFT]
            if failure is not None:
                raise DistributedError(self._describe(failure))
            if gone:
                raise DistributedError(f"rank {gone[0]} of {self.size} left before the first step")
            time.sleep(LOOK)
        return self.store.get(key)

    def _disagreement(self, facts: list[dict[str, str]]) -> Failure | None:
        for rank, other in enumerate(facts):
            names = sorted(facts[0].keys() | other.keys())
            if differ := [name for name in names if facts[0].get(name) != other.get(name)]:
                what = f"its {', '.join(differ)} differ from rank 0's"
                return self._failure(rank, f"{what}; start all ranks with the same files")
        return None

    def _find_cause(self, error: Exception) -> Failure | None:
        """What was told of the first failure, or who has fallen silent; None: neither."""
        before = self._board.beats()
        deadline = time.monotonic() + TELLING
        while time.monotonic() < deadline:
            if failure := self._board.failure():
                return failure
            time.sleep(LOOK)
        for rank, beat in enumerate(self._board.beats()):
            if rank != self.rank and beat in (before[rank], LEFT):
                return self._board.fail(self._gone(rank, error))
        return None

    def _gone(self, rank: int, error: Exception) -> Failure:
        said = words_of(error.__cause__ if is_of_collective(error.__cause__) else error)
        return self._failure(rank, f"it was killed, stopped or cut off ({said}); {GO_ON}")

    def _heard(self) -> Failure | None:
        with suppress(RuntimeError):
            return self._board.failure()
        return None

    def _failure(self, rank: int, line: str) -> Failure:
        return Failure(rank, line, by=self.rank, host=self._host)

    def _describe(self, failure: Failure) -> str:
        away = failure.by == failure.rank and failure.host != self._host
        where = f" on {failure.host}" if away else ""
        return f"rank {failure.rank} of {self.size}{where} failed first: {failure.line}"


_launch: Launch | None = None  # of this process


def join(rank: int, size: int, patience: timedelta) -> Launch:
    """Find the other processes of this start; the same Launch until it is left.

    Args:
        patience: how long to wait for them.

    Raises:
        DistributedError: the launcher's store or a rank is not found.
    """
    global _launch
    if _launch is None or _launch.left:
        try:
            store, pulse_store = (
                next(rendezvous("env://", rank, size, timeout=patience))[0] for _ in range(2)
            )
            name = _meet(store, rank, size, patience.total_seconds())
        except ValueError as error:  # a variable that whoever starts the ranks sets
            raise DistributedError(
                f"cannot join the others: {error}",
                hint="start with `torchrun --nproc_per_node N -m lmkit train EXPERIMENT`",
            ) from error
        except RuntimeError as error:
            raise DistributedError(
                f"cannot join the others: {error}",
                hint="does this machine reach MASTER_ADDR at MASTER_PORT?",
            ) from error
        _launch = Launch(
            PrefixStore(name, store),
            PrefixStore(name, pulse_store),
            rank,
            size,
            kept_by_rank_0=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        )
    return _launch


def fell(error: Exception, rank: int, size: int) -> End:
    """`Launch.fell`, also for a rank that fails before it has joined the others."""
    if _launch is not None:
        return _launch.fell(error)
    if isinstance(error, Stopped):
        return _stopped(error, rank)
    alone = End(error, f"rank {rank} of {size}: {words_of(error)}")
    if isinstance(error, DistributedError):  # it could not join them
        return alone
    try:
        return join(rank, size, timedelta(seconds=30)).fell(error)
    except DistributedError:
        return alone


def _stopped(error: Stopped, rank: int) -> End:
    return End(error, words_of(error) if rank == 0 else None)  # all of them were


def leave() -> None:
    """`Launch.leave`, where there is one."""
    if _launch is not None:
        _launch.leave()


def _meet(store: Store, rank: int, size: int, patience: float) -> str:
    """A name that the ranks of this start share, and no earlier start had.

    Each rank says hello with a word of its own, and rank 0 repeats the words it has read until all
    have found theirs among them. Its own is the name. A count of restarts is none: a node that goes
    on when another one is brought back does not count that (torch 2.13).

    Raises:
        DistributedError: not all of them came in time.
        RuntimeError: the store is gone.
    """
    mine = uuid.uuid4().hex
    deadline = time.monotonic() + patience
    if rank == 0:
        Board(PrefixStore(mine, store), rank, size).lay_out()
    store.set(f"hello/{rank}", mine)
    late = list(range(1, size))
    while time.monotonic() < deadline:
        if rank == 0:
            words = [_peek(store, f"hello/{r}") for r in range(size)]
            store.set("roll", json.dumps(words))
            late = [r for r in range(1, size) if _peek(store, f"heard/{r}") != mine]
            if not late:
                return mine
        else:
            roll = json.loads(_peek(store, "roll") or "[]")
            if len(roll) == size and roll[rank] == mine:
                store.set(f"heard/{rank}", roll[0])
                return str(roll[0])
        time.sleep(LOOK)
    who = f"ranks {', '.join(map(str, late))}" if rank == 0 else "the others"
    raise DistributedError(
        f"{who} did not come within {patience:.0f} s",
        hint="look at what each of them said last, and whether its machine reaches this one",
    )


def _peek(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
