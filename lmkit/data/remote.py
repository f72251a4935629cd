"""remote: where files come from that are not on this disk yet; knows no documents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lmkit.data.cache import cache_folder, file_digest
from lmkit.data.fetch import fetch
from lmkit.data.patience import PATIENCE, Patience


class Published(NamedTuple):
    """What is told of a file beforehand; None where nothing is."""

    size: int | None = None
    sha256: str | None = None


class Place(ABC):
    """A folder of files somewhere, and the folder of this disk where they come to lie."""

    @property
    @abstractmethod
    def home(self) -> str:
        """Where the files come from, for a reader."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where they lie, or will lie; whoever has no network puts them here by hand."""

    @abstractmethod
    def names(self, patterns: Sequence[str], *, ask: bool = True) -> list[str] | None:
        """The files that are meant, sorted; None if that is not known without asking the network.

        Raises:
            DataError: there is none, or the network cannot be asked.
        """

    @abstractmethod
    def get(self, name: str, *, progress: bool = True) -> Path:
        """The file, fetched if it is not there.

        Raises:
            DataError: it cannot be had.
        """

    @abstractmethod
    def published(self, name: str) -> Published:
        """What is known of a file, without asking the network."""

    def path(self, name: str) -> Path:
        """Where the file lies, or will lie."""
        return self.folder / name

    def digest(self, name: str) -> str:
        """sha256 of the file; it is fetched for that only if nothing else tells."""
        if self.path(name).is_file():
            return file_digest(self.path(name))
        return self.published(name).sha256 or file_digest(self.get(name))

    def size(self, name: str) -> int | None:
        """Bytes of the file, None if that is not known yet."""
        path = self.path(name)
        return path.stat().st_size if path.is_file() else self.published(name).size


class WebFolder(Place):
    """Files on a web server.

    Args:
        name: of the folder on this disk.
        address: what comes before a file's name.
        files: those that there are, with what is published of them.
    """

    def __init__(
        self,
        name: str,
        address: str,
        files: Mapping[str, Published],
        *,
        patience: Patience = PATIENCE,
    ) -> None:
        self.name = name
        self.address = address
        self.files = files
        self.patience = patience

    @property
    def home(self) -> str:
        return self.address

    @property
    def folder(self) -> Path:
        return cache_folder() / "downloads" / self.name

    def names(self, patterns: Sequence[str], *, ask: bool = True) -> list[str]:
        return sorted(set(patterns))

    def get(self, name: str, *, progress: bool = True) -> Path:
        size, sha256 = self.published(name)
        return fetch(
            self.address + name,
            self.path(name),
            size=size,
            sha256=sha256,
            progress=progress,
            patience=self.patience,
        )

    def published(self, name: str) -> Published:
        return self.files.get(name, Published())
