"""sharded: the stores of a source's shards, each made while the one before is used; no rows."""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from tqdm import tqdm

from lmkit.data.store import TokenStore

logger = logging.getLogger(__name__)

LEAVING = 2.0  # seconds that a thread gets to end when the process does
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class ShardedStore:
    """The tokens of a source that is read shard by shard.

    A shard is made by a thread of its own when it is asked for, and then the next one too. A
    process that ends does not wait for them; what they leave unfinished in the cache is no store.

    Args:
        makers: what makes the store of each shard, in their order.
        about: what the source is, in one line.
    """

    def __init__(self, makers: Sequence[Callable[[], TokenStore]], about: str) -> None:
        self.about = about
        self._makers = list(makers)
        self._making: dict[int, Future[TokenStore]] = {}
        self._beginning = threading.Lock()

    def __len__(self) -> int:
        return len(self._makers)

    def shard(self, number: int) -> TokenStore:
        """The store of one shard. Waits for it, and has the next one begun.

        Raises:
            LMKitError: what went wrong when it was fetched or tokenised.
        """
        making = self._begin(number)
        if number and not making.done():
            logger.info("waiting for shard %d of %d: %s", number + 1, len(self), self.about)
        store = making.result()
        if number + 1 < len(self):
            self._begin(number + 1)
        return store

    def complete(self, progress: bool) -> None:
        """Have all shards made."""
        numbers = range(len(self))
        for number in tqdm(
            numbers, desc="tokenising", unit=" shards", file=sys.stderr, disable=not progress
        ):
            self.shard(number)

    @property
    def ready(self) -> list[TokenStore]:
        """The shards that are there, from the first up to the first that is not."""
        stores = []
        for number in range(len(self)):
            making = self._making.get(number)
            if making is None or not making.done() or making.exception() is not None:
                break
            stores.append(making.result())
        return stores

    @property
    def prompts(self) -> bool:
        """True if the documents are samples with a mask."""
        return self.shard(0).prompts

    @property
    def token_count(self) -> int:
        """Tokens of the shards that are ready."""
        return sum(store.token_count for store in self.ready)

    @property
    def document_count(self) -> int:
        """Documents of the shards that are ready."""
        return sum(store.document_count for store in self.ready)

    @property
    def notes(self) -> dict[str, Any]:
        """The notes of each ready shard that has any, under its description."""
        return {store.about: store.notes for store in self.ready if store.notes}

    def check(self) -> None:
        """See that no file was cut since it was opened.

        Raises:
            StorageError: one was.
        """
        for store in self.ready:
            store.check()

    def _begin(self, number: int) -> Future[TokenStore]:
        with self._beginning:
            if number not in self._making:
                making: Future[TokenStore] = Future()
                self._making[number] = making
                arguments = (making, self._makers[number])
                thread = threading.Thread(target=_make, args=arguments, daemon=True)
                _threads.add(thread)
                thread.start()
            return self._making[number]


def _make(making: Future[TokenStore], maker: Callable[[], TokenStore]) -> None:
    try:
        making.set_result(maker())
    except BaseException as error:  # it is raised again where the shard is asked for
        making.set_exception(error)


@atexit.register
def _leave() -> None:
    """Wait for threads that tokenise; they fail at their next piece, as no pool takes work now.

    One that is inside Arrow while the interpreter is taken down could abort the process.
    """
    for thread in list(_threads):
        thread.join(LEAVING)
