"""place: a second home of a run's checkpoints, a folder or any URL that fsspec opens; knows not
when something is copied.

    URL/checkpoints/<step>-<stage>/   as in the run's own folder
    URL/metrics.jsonl  ...            the files beside them

Not every store can rename, so a checkpoint's manifest is the last file to come and the first to go:
what has none is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmkit.checkpoints.contents import NAME, STATE
from lmkit.checkpoints.disk import touch
from lmkit.checkpoints.durable import sync
from lmkit.checkpoints.manifest import MANIFEST, MOST_BYTES, Manifest
from lmkit.errors import ConfigError

FOLDER = "checkpoints"


@dataclass(frozen=True)
class Copied:
    """A checkpoint there, as its state.json describes it."""

    name: str
    step: int
    number: int
    stage: str
    metrics: Mapping[str, float | None]
    stays: bool

    @classmethod
    def of(cls, name: str, state: Any) -> Copied:
        """Raises TypeError, KeyError or AttributeError where `state` is none of ours."""
        about = (int(state["step"]), int(state["number"]), str(state["stage"]))
        return cls(name, *about, dict(state["metrics"]), bool(state.get("stays")))


class Place:
    """The files of a run elsewhere.

    Every method raises what the store's driver raises, which need be no OSError.

    Args:
        url: a folder's path, or `protocol://...` as fsspec reads it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._known: dict[str, bytes] = {}  # manifests, by the checkpoint's name

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]

            return url_to_fs(self.url)
        except (ImportError, ValueError) as error:  # a package is not there; no such protocol
            raise ConfigError(
                f"copy_to: {self.url} cannot be opened: {error}",
                hint="install fsspec and the package of that store (s3fs, gcsfs, adlfs)",
                key="copy_to",
            ) from error

    @property
    def _store(self) -> Any:
        return self._opened[0]

    def _path(self, *parts: str) -> str:
        return "/".join([self._opened[1].rstrip("/"), *parts])

    def open(self) -> None:
        """Make the place, if need be, and see that it answers."""
        self._store.makedirs(self._path(FOLDER), exist_ok=True)
        self.entries()

    def entries(self) -> list[Copied]:
        """The whole ones, oldest first; what cannot be read is none."""
        found = []
        for name in self.names():
            if self.manifest(name) is None:
                continue
            with suppress(ValueError, TypeError, KeyError, AttributeError, FileNotFoundError):
                state = json.loads(self._store.cat_file(self._path(FOLDER, name, STATE)))
                found.append(Copied.of(name, state))
        return sorted(found, key=lambda entry: (entry.step, entry.number))

    def manifest(self, name: str) -> bytes | None:
        """A checkpoint's manifest as it was written; None where it is not whole."""
        if name not in self._known:
            try:
                path = self._path(FOLDER, name, MANIFEST)
                self._known[name] = self._store.cat_file(path, 0, MOST_BYTES)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return self._known[name]

    def names(self) -> list[str]:
        """The folders there that are called as checkpoints are, whole or not."""
        self._store.invalidate_cache()
        try:
            paths = self._store.ls(self._path(FOLDER), detail=False)
        except FileNotFoundError:  # in a bucket a folder without files is none
            paths = []
        found = [path.rstrip("/").rpartition("/")[2] for path in paths]
        names = [name for name in found if NAME.fullmatch(name)]
        self._known = {name: self._known[name] for name in names if name in self._known}
        return names

    def put(self, folder: Path) -> None:
        """Copy a checkpoint; one of that name that lies there goes first."""
        self.remove(folder.name)
        for file in (*Manifest.read(folder).files, MANIFEST):
            self._put(folder / file, self._path(FOLDER, folder.name, file))
        self._known[folder.name] = (folder / MANIFEST).read_bytes()

    def put_beside(self, path: Path) -> None:
        """Copy a file of the run; the one that lies there is there until then."""
        aside, there = self._path(f".tmp-{path.name}"), self._path(path.name)
        self._put(path, aside)
        touch("copy.rename")
        self._store.mv(aside, there)

    def remove(self, name: str) -> None:
        """Delete a checkpoint, whole or not; the manifest goes first."""
        self._known.pop(name, None)
        there = self._path(FOLDER, name)
        if self._store.exists(f"{there}/{MANIFEST}"):
            touch("copy.unlink")
            self._store.rm_file(f"{there}/{MANIFEST}")
        if self._store.exists(there):
            touch("copy.unlink")
            self._store.rm(there, recursive=True)

    def size(self, name: str, file: str) -> int | None:
        """Bytes of a checkpoint's file; None where there is none."""
        try:
            return int(self._store.info(self._path(FOLDER, name, file))["size"])
        except FileNotFoundError:
            return None

    def get(self, name: str, file: str, to: Path) -> None:
        """Bring a checkpoint's file."""
        to.parent.mkdir(parents=True, exist_ok=True)
        self._store.get_file(self._path(FOLDER, name, file), str(to))

    def get_longer(self, path: Path) -> None:
        """Bring a file that lies beside the checkpoints, where it is longer than the one here."""
        there = self._path(path.name)
        if not self._store.exists(there):
            return
        if path.exists() and path.stat().st_size >= self._store.info(there)["size"]:
            return
        aside = path.with_name(f".tmp-{path.name}")
        self._store.get_file(there, str(aside))
        sync(aside)
        aside.replace(path)

    def _put(self, path: Path, there: str) -> None:
        touch("copy.mkdir")
        self._store.makedirs(there.rpartition("/")[0], exist_ok=True)
        touch("copy.write")
        self._store.put_file(str(path), there)
        if "file" in self._store.protocol:  # others answer when they have it
            touch("copy.fsync")
            sync(Path(there))
            sync(Path(there).parent)
