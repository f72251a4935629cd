"""sharded: the stores of a source's shards, each made while the one before is used; no rows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from lmkit.data.bar import progress_bar
from lmkit.data.store import TokenStore
from lmkit.data.worker import Worker

logger = logging.getLogger(__name__)


class ShardedStore:
    """The tokens of a source that is read shard by shard.

    A shard is made by a worker of its own when it is asked for, and then the next one too. What
    they leave unfinished in the cache when the process ends is no store.

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
        with progress_bar("tokenising", len(self), " shards", shown=progress) as bar:
            for number in range(len(self)):
                self.shard(number)
                bar.update()

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
                self._making[number] = Worker("lmkit-shard").begin(self._makers[number])
            return self._making[number]
