"""corpora: known collections of text and how to get them."""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lmkit.data.cache import fingerprint_of
from lmkit.data.columns import Columns
from lmkit.data.downloads import Downloads, in_bytes
from lmkit.data.files import reading
from lmkit.data.holdout import Split, check_holdout, share_of, split_documents
from lmkit.data.hub import HubRepo
from lmkit.data.known import known
from lmkit.data.remote import Place, WebFolder
from lmkit.data.sources import Source
from lmkit.errors import ConfigError, DataError
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


class HubDataset(Downloads):
    """Files of a data set on the Hugging Face hub, each fetched when it is first read.

    Args:
        repo: such as `karpathy/climbmix-400b-shuffle`.
        files: globs of the files to get, all `.parquet`, all JSON lines, or all `.txt`.
        revision: a branch, tag or commit. What a branch means is looked up once.
        text: name of the column that is a text;
        prompt: or that is a prompt,
        truth: and its right answer;
        messages: or that is a conversation. None named: the columns of these names.
        holdout: share of the documents kept for validation; or
        validation: globs of the files kept for it.
        shuffled: the order of the documents means nothing: train file by file, each shuffled in
            itself, and begin with the first while the others are on their way. Needs `validation`.

    Raises:
        ConfigError: no file is named; or `shuffled` without `validation`.
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
        validation: str | list[str] | None = None,
        shuffled: bool = False,
    ) -> None:
        self.repo = repo
        super().__init__(
            HubRepo(repo, revision),
            _listed(files),
            validation=None if validation is None else _listed(validation),
            columns=Columns(text, prompt, truth, messages),
            holdout=holdout,
            shuffled=shuffled,
        )

    def describe(self) -> str:
        return f"HubDataset {self.repo}: {super().describe()}"


class Corpus(Downloads):
    """A data set that lmkit knows by name (lmkit/data/known.py): fetched when it is first read.

    Args:
        name: fineweb_edu, climbmix, tinystories, smol_smoltalk, smoltalk, shakespeare or gsm8k.
        files: how many of its training files, or globs of them; all by default.
        holdout: share of the training documents kept for validation. By default that is what the
            publisher holds out, and 0.05 where that is nothing. fineweb_edu and climbmix hold out
            their last file, and begin to train with the first while the others are on their way;
            with a share instead they are read whole before.
        revision: of a data set on the hub: a branch, tag or commit.

    Raises:
        ConfigError: no such data set, it is for a task only, or it has no such files.
    """

    def __init__(
        self,
        name: str,
        *,
        files: int | str | list[str] | None = None,
        holdout: float | None = None,
        revision: str = "main",
    ) -> None:
        self.name = name
        self.known = known(name)
        if self.known.columns is None:
            hint = "it is asked by `lmkit eval`, with --tasks or --core"
            raise ConfigError(f"{name} has no text to train on", hint=hint, key="name")
        held_out = self.known.parts.get("validation") if holdout is None else None
        super().__init__(
            place_of(name, revision),
            _some(self.known.parts["train"], files),
            validation=held_out,
            columns=self.known.columns,
            holdout=0.05 if holdout is None else holdout,
            shuffled=self.known.shuffled and held_out is not None,
            unpacked=self.known.unpacked,
        )

    def describe(self) -> str:
        return f"Corpus {self.name}: {super().describe()}, licence {self.known.licence}"

    def _amount(self, names: list[str]) -> str:
        parts = [self.known.parts.get(part, ()) for part in ("train", "validation")]
        about = self.known.size * len(names) / sum(map(len, parts))
        return super()._amount(names) or f", about {in_bytes(about)}"


def place_of(name: str, revision: str = "main") -> Place:
    """Where a known data set lives.

    Raises:
        ConfigError: there is none of that name.
    """
    about = known(name)
    if about.repo:
        return HubRepo(about.repo, revision)
    return WebFolder(name, about.address, about.published)


def _listed(patterns: str | list[str]) -> list[str]:
    names = [patterns] if isinstance(patterns, str) else list(patterns)
    if not names:
        raise ConfigError("no file is named", hint="a name, or a glob such as data/*.parquet")
    return names


def _some(names: tuple[str, ...], wanted: int | str | list[str] | None) -> list[str]:
    """The first so many, or those that match a glob."""
    if wanted is None:
        return list(names)
    if isinstance(wanted, int):
        if not 1 <= wanted <= len(names):
            what = f"files is {wanted}, there are {len(names):,}"
            raise ConfigError(what, hint="the first so many are taken", key="files")
        return list(names[:wanted])
    patterns = _listed(wanted)
    found = [name for name in names if any(fnmatchcase(name, one) for one in patterns)]
    if not found:
        hint = f"the first is {names[0]}, the last {names[-1]}"
        raise ConfigError(f"no file matches {', '.join(patterns)}", hint=hint, key="files")
    return found
