"""downloads: documents in files that are fetched when they are first read; knows no data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lmkit.data.cache import fingerprint_of
from lmkit.data.columns import Columns
from lmkit.data.holdout import Split, check_holdout, share_of, split_documents
from lmkit.data.remote import Place
from lmkit.data.sources import FileSource, JsonLines, Parquet, Source, TextFiles
from lmkit.errors import ConfigError, DataError
from lmkit.prompts import Prompt

KINDS: dict[tuple[str, ...], type[FileSource]] = {
    (".parquet",): Parquet,
    (".jsonl", ".jsonl.gz", ".jsonl.zst"): JsonLines,
    (".txt",): TextFiles,
}
PACKED = (".gz", ".zst", ".parquet")  # their size says little about the text in them


class Downloads(Source):
    """Documents in the files of a place.

    Args:
        train: names of its files, or globs of them.
        validation: of the files that are held out; None: `holdout` of the documents are.
        columns: which of a table's are the prompt.
        holdout: the share that is held out where there are no files for it.
        shuffled: the files can be trained on one after another: see `shards`.
        unpacked: bytes of text in a byte of the files, about.
        progress: show on stderr that a file is fetched.

    Raises:
        ConfigError: `shuffled` without `validation`; a holdout that is no share.
    """

    def __init__(
        self,
        place: Place,
        train: Sequence[str],
        *,
        columns: Columns,
        validation: Sequence[str] | None = None,
        holdout: float = 0.05,
        shuffled: bool = False,
        unpacked: float | None = None,
        progress: bool = True,
    ) -> None:
        if shuffled and validation is None:
            raise ConfigError(
                "shuffled needs validation: files of its own",
                hint="what a share holds out is known when all files were read",
                key="shuffled",
            )
        self.place = place
        self.columns = columns
        self.holdout = check_holdout(holdout)
        self.shuffled = shuffled
        self.unpacked = unpacked
        self.progress = progress
        self._train = train
        self._validation = validation

    def documents(self, split: Split) -> Iterator[Prompt]:
        keyed = (pair for name in self._names(split) for pair in self._keyed(name))
        if self._validation is None:
            return split_documents(keyed, split, self.holdout)
        return (prompt for _, prompt in keyed)

    def shards(self, split: Split) -> list[Source] | None:
        if split != "train" or not self.shuffled:
            return None
        return [self._alone(name, number) for number, name in enumerate(self._names("train"))]

    def fingerprint(self) -> str:
        held_out = [] if self._validation is None else [self._contents("validation")]
        kind, settings = self._kind.__name__, self._options
        return fingerprint_of([kind, self.holdout, settings, self._contents("train"), *held_out])

    def describe(self) -> str:
        names = self._known_names()
        if names is None:
            return f"{self.place.home}, not on this disk yet"
        here = sum(self.place.path(name).is_file() for name in names)
        files = f"{len(names):,} files" if len(names) > 1 else "1 file"
        there = "" if here == len(names) else f", {here or 'none'} on this disk"
        return f"{self.place.home}, {files}{self._amount(names)}{there}"

    def available(self) -> bool:
        names = self._known_names()
        if names is None:
            return False
        needed = [names[0], *self._names("validation")] if self.shuffled else names
        return all(self.place.path(name).is_file() for name in needed)

    def size(self, split: Split) -> int | None:
        names = self._names(split)
        if self.unpacked is None and any(name.endswith(PACKED) for name in names):
            return None
        sizes = [self.place.size(name) for name in names]
        if None in sizes:
            return None
        share = share_of(split, self.holdout) if self._validation is None else 1.0
        return round(share * (self.unpacked or 1.0) * sum(size or 0 for size in sizes))

    @cached_property
    def _kind(self) -> type[FileSource]:
        return _kind_of(self._all_names("train"), self.place.home)

    @property
    def _options(self) -> dict[str, Any]:
        return self._local("").settings()

    def _local(self, name: str) -> FileSource:
        """The source that reads one file."""
        columns: dict[str, Any] = {} if self._kind is TextFiles else vars(self.columns)
        return self._kind(str(self.place.path(name)), holdout=0, **columns)

    def _keyed(self, name: str) -> Iterator[tuple[str, Prompt]]:
        self.place.get(name, progress=self.progress)
        return self._local(name).keyed_documents()

    def _alone(self, name: str, number: int) -> Source:
        """One file as a source; of those that come later no progress is shown."""
        return Downloads(
            self.place,
            [name],
            columns=self.columns,
            holdout=0,
            unpacked=self.unpacked,
            progress=self.progress and number == 0,
        )

    def _contents(self, split: Split) -> list[list[str]]:
        names = self._names(split)
        return [[Path(name).name, self.place.digest(name)] for name in names]

    def _names(self, split: Split) -> list[str]:
        """The files that have documents of a split."""
        if self._validation is None:
            return self._of_kind(self._all_names("train"))
        parts: tuple[Split, ...] = ("train", "validation") if split == "all" else (split,)
        return [name for part in parts for name in self._of_kind(self._all_names(part))]

    def _of_kind(self, names: list[str]) -> list[str]:
        suffixes = next(suffixes for suffixes, kind in KINDS.items() if kind is self._kind)
        return [name for name in names if name.endswith(suffixes)]

    def _all_names(self, split: Split) -> list[str]:
        patterns = self._train if split == "train" else self._validation
        names = self.place.names(patterns or ())
        assert names is not None  # it may ask
        return names

    def _known_names(self) -> list[str] | None:
        """All files, as far as that is known without the network."""
        patterns = [*self._train, *(self._validation or ())]
        if self.place.names(patterns, ask=False) is None:
            return None
        return self._names("all")

    def _amount(self, names: list[str]) -> str:
        sizes = [self.place.size(name) for name in names]
        known = [size for size in sizes if size is not None]
        return f", {in_bytes(sum(known))}" if len(known) == len(sizes) else ""


def in_bytes(size: float) -> str:
    """A size for a reader, in MB or GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _kind_of(names: Sequence[str], at: str) -> type[FileSource]:
    for suffixes, kind in KINDS.items():
        if any(name.endswith(suffixes) for name in names):
            return kind
    raise DataError(
        f"no Parquet, JSON lines or text file: {', '.join(names[:3])}",
        hint="look at the file names there",
        at=at,
    )
