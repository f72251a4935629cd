"""corpora: known collections of text and how to get them."""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from lmkit.data.cache import cache_folder, fingerprint_of, publish
from lmkit.data.files import extra, reading
from lmkit.data.holdout import Split, check_holdout, share_of, split_documents
from lmkit.data.sources import Columns, FileSource, JsonLines, Parquet, Source, TextFiles
from lmkit.errors import DataError
from lmkit.prompts import Prompt

_INSTALLED = {"site-packages", "dist-packages"}


class PythonStdlib(Source):
    """The source of Python's standard library: real text on every disk that has Python.

    Every `.py` file is a document, sorted by its path; installed packages are left out, and so are
    empty files and those that are not UTF-8 (`describe` counts them). About 30 MB.

    Args:
        holdout: share of the files kept for validation, by the sha256 of a file's path.
    """

    def __init__(self, *, holdout: float = 0.05) -> None:
        self.holdout = check_holdout(holdout)
        self.root = Path(sysconfig.get_path("stdlib"))

    def documents(self, split: Split) -> Iterator[Prompt]:
        keyed = ((file.name, self._document(file.name)) for file in self._survey.files)
        return split_documents(keyed, split, self.holdout)

    def fingerprint(self) -> str:
        survey = self._survey
        contents = [[file.name, file.digest] for file in survey.files]
        return fingerprint_of(["PythonStdlib", self.holdout, platform.python_version(), contents])

    def describe(self) -> str:
        survey = self._survey
        skipped = f", {survey.skipped} not UTF-8 and skipped" if survey.skipped else ""
        return (
            f"PythonStdlib: Python {platform.python_version()}, {len(survey.files):,} files, "
            f"{survey.bytes / 1e6:,.1f} MB, {self.holdout:.0%} held out{skipped}"
        )

    def available(self) -> bool:
        return self.root.is_dir()

    def size(self, split: Split) -> int | None:
        return round(share_of(split, self.holdout) * self._survey.bytes)

    def _document(self, name: str) -> Prompt:
        path = self.root / name
        return Prompt(text=path.read_bytes().decode("utf-8"), at=str(path))

    @cached_property
    def _survey(self) -> _Survey:
        """Every file, read once (0.07 s): a changed one must change the fingerprint."""
        files, skipped, size = [], 0, 0
        for name in sorted(_python_files(self.root)):
            with reading(self.root / name):
                data = (self.root / name).read_bytes()
            try:
                data.decode("utf-8")
            except UnicodeDecodeError:  # the library's own tests hold such files on purpose
                skipped += 1
                continue
            if not data:
                continue
            size += len(data)
            files.append(_File(name, hashlib.sha256(data).hexdigest()))
        if not files:
            raise DataError(
                "this Python has no source of its standard library",
                hint="use another data source",
                at=self.root,
            )
        return _Survey(files, skipped, size)


def _python_files(root: Path) -> Iterator[str]:
    """Names below the root, posix; installed packages are not walked through."""
    for parent, folders, files in os.walk(root):
        folders[:] = set(folders) - _INSTALLED
        for file in files:
            if file.endswith(".py"):
                yield Path(parent, file).relative_to(root).as_posix()


class _File(NamedTuple):
    name: str
    digest: str


class _Survey(NamedTuple):
    files: list[_File]
    skipped: int
    bytes: int


class HubDataset(Source):
    """Files of a dataset on the Hugging Face hub, downloaded once, when they are first read.

    Args:
        repo: such as `karpathy/climbmix-400b-shuffle`.
        files: globs of the files to get, all `.parquet`, all JSON lines, or all `.txt`.
        revision: a branch, tag or commit. A branch is looked up only at the first download.
        text: name of the column that is a text;
        prompt: or that is a prompt,
        truth: and its right answer;
        messages: or that is a conversation. None named: the columns of these names.
        holdout: share of the documents kept for validation.
    """

    def __init__(
        self,
        repo: str,
        files: str | list[str],
        *,
        revision: str = "main",
        text: str | None = None,
        prompt: str | None = None,
        truth: str | None = None,
        messages: str | None = None,
        holdout: float = 0.05,
    ) -> None:
        self.repo = repo
        self.patterns = [files] if isinstance(files, str) else list(files)
        self.revision = revision
        self.columns = Columns(text, prompt, truth, messages)
        self.holdout = check_holdout(holdout)

    @property
    def folder(self) -> Path:
        """Where the files lie, or will lie."""
        wanted = fingerprint_of([self.repo, self.revision, sorted(self.patterns)])[:12]
        return cache_folder() / "hub" / f"{self.repo.replace('/', '--')}-{wanted}"

    def documents(self, split: Split) -> Iterator[Prompt]:
        return self._local.documents(split)

    def fingerprint(self) -> str:
        return self._local.fingerprint()

    def describe(self) -> str:
        if not self.available():
            return f"HubDataset {self.repo}: not on this disk yet"
        return f"HubDataset {self.repo}, {self._local.describe()}"

    def available(self) -> bool:
        return self.folder.is_dir()

    def size(self, split: Split) -> int | None:
        return self._local.size(split)

    @cached_property
    def _local(self) -> FileSource:
        folder = publish(self.folder, self._download, resume=True)
        for suffixes, kind in _KINDS.items():
            files = sorted(str(path) for path in folder.rglob("*") if path.name.endswith(suffixes))
            if files:
                columns = {} if kind is TextFiles else vars(self.columns)
                return kind(files, holdout=self.holdout, **columns)
        raise DataError(
            f"no Parquet, JSON lines or text file matches {', '.join(self.patterns)}",
            hint="look at the file names on the hub",
            at=self.repo,
        )

    def _download(self, folder: Path) -> None:
        hub = extra("huggingface_hub")
        try:
            hub.snapshot_download(
                self.repo,
                repo_type="dataset",
                revision=self.revision,
                allow_patterns=self.patterns,
                local_dir=folder,
            )
        except Exception as error:  # the network's, the hub's and its client's are many classes
            raise DataError(
                f"cannot be downloaded: {str(error).strip().splitlines()[0]}",
                hint=f"check the name and the network; the files would lie in {self.folder}",
                at=self.repo,
            ) from error


_KINDS: dict[tuple[str, ...], Any] = {
    (".parquet",): Parquet,
    (".jsonl", ".jsonl.gz", ".jsonl.zst"): JsonLines,
    (".txt",): TextFiles,
}
