"""board: what the ranks of one start tell each other without a collective: who lives, who has left,
who failed first. Keys in a store that all of them see; knows no thread and no process.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from torch.distributed import Store

LEFT = b"left"
FAILED = "failed"


@dataclass(frozen=True)
class Failure:
    """The first failure of a start.

    Attributes:
        rank: which one failed,
        line: what it said, or what is known of it.
        by: the rank that tells; another one where `rank` could not,
        host: and the machine that this one is on.
    """

    rank: int
    line: str
    by: int
    host: str


class Board:
    """The keys, as one rank writes and reads them. Every call may raise RuntimeError: no store.

    Args:
        store: of this start only.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store = store
        self.rank = rank
        self.size = size

    def lay_out(self) -> None:
        """Once, by one rank, before the others read."""
        for rank in range(self.size):
            self.store.set(f"beat/{rank}", "0")

    def beat(self, number: int) -> None:
        """This rank lives; another number every time."""
        self.store.set(f"beat/{self.rank}", str(number))

    def leave(self) -> None:
        """This rank will not beat any more, and that is no failure."""
        self.store.set(f"beat/{self.rank}", LEFT.decode())

    def beats(self) -> list[bytes]:
        """The last beat of every rank, LEFT of those that have left."""
        return self.store.multi_get([f"beat/{rank}" for rank in range(self.size)])

    def beat_of(self, rank: int) -> bytes:
        """The last beat of one rank."""
        return self.store.get(f"beat/{rank}")

    def fail(self, failure: Failure) -> Failure:
        """Tell a failure; the first that was told is given back, whoever told it."""
        told = self.store.compare_set(FAILED, "", json.dumps(asdict(failure)))
        return Failure(**json.loads(told))

    def failure(self) -> Failure | None:
        """The first failure that was told."""
        if not self.store.check([FAILED]):
            return None
        return Failure(**json.loads(self.store.get(FAILED)))

    def speaks(self, host: str, failure: Failure) -> bool:
        """Whether this rank is to print the failure: the one that told it, and one of each other
        machine."""
        if failure.host == host:
            return failure.by == self.rank
        return self.store.add(f"said/{host}", 1) == 1
