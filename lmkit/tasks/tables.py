"""tables: tasks whose problems are rows of files, one's own or published; knows no task itself."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lmkit.data.cache import file_digest, fingerprint_of
from lmkit.data.corpora import place_of
from lmkit.data.files import find_files
from lmkit.data.holdout import Split, check_holdout
from lmkit.data.known import known
from lmkit.data.sources import JsonLines, Parquet
from lmkit.errors import ConfigError, DataError, did_you_mean
from lmkit.evals.task import Problem, Task
from lmkit.tasks.held_out import held_out, without


class TableTask(Task):
    """A task made of rows: a subclass names a data set, and writes `problem`.

    The order of the problems is drawn by a hash of each, so that the first hundred are a fair
    sample of a file that is sorted by subject.

    Args:
        path: JSON lines or Parquet: a file, a folder, a glob, or a list of them. Without it the
            published files are downloaded when they are first read.
        test: files with problems to be measured on; `path` then has those to train on. A question
            that is in both is measured only.
        holdout: without `test` the share of `path` to be measured on, by each question's sha256.
        name: in tables and metrics, where one class is used twice.
        folder: the YAML's folder, where relative paths are looked up first.

    Raises:
        ConfigError: `test` without `path`.
    """

    version = 1  # goes up when the same rows give other problems
    corpus: str  # a data set that lmkit.data.known knows,
    parts: tuple[str, str]  # those to train on and to be measured on

    def __init__(
        self,
        path: str | list[str] | None = None,
        test: str | list[str] | None = None,
        *,
        holdout: float = 0.05,
        name: str | None = None,
        folder: str | None = None,
    ) -> None:
        if path is None and test is not None:
            raise ConfigError("'test' belongs to 'path', which is not given", key="test")
        self.path = path
        self.test = test
        self.holdout = check_holdout(holdout)
        self.name = name or self.name
        self.folder = folder

    @abstractmethod
    def problem(self, row: Mapping[str, Any], at: str) -> Problem:
        """A row's problem.

        Raises:
            DataError: the row has no answer, or another form; names `at`.
        """

    def settings(self) -> dict[str, Any]:
        """What beside the files decides which problems there are, as plain data."""
        return {}

    def problems(self, split: Split) -> Sequence[Problem]:
        """Files are read when they are first needed, and kept: only those measured on, for
        `validation`."""
        if split == "all":
            return [*self._train, *self._validation]
        return self._train if split == "train" else self._validation

    def fingerprint(self) -> str:
        files = [files.digests() for files in self._files]
        about = [type(self).__name__, self.version, self.holdout, self.settings(), files]
        return fingerprint_of(about)

    def describe(self) -> str:
        return f"{type(self).__name__}: {' and '.join(map(str, self._files))}"

    def available(self) -> bool:
        return all(files.available() for files in self._files)

    @cached_property
    def _files(self) -> list[_Local | _Published]:
        """Those to train on and those to be measured on, or one list for both."""
        if self.path is None:
            return [_Published(self.corpus, part) for part in self.parts]
        paths = [self.path] if self.test is None else [self.path, self.test]
        return [_Local(path, self.folder) for path in paths]

    @cached_property
    def _validation(self) -> list[Problem]:
        problems = self._read(self._files[-1])
        return problems if len(self._files) == 2 else held_out(problems, self.holdout, _question)

    @cached_property
    def _train(self) -> list[Problem]:
        """All that is not measured on: of published files too, a question may be in both."""
        return without(self._read(self._files[0]), self._validation)

    def _read(self, files: _Local | _Published) -> list[Problem]:
        rows = (row for path in files.paths() for row in _rows(path))
        return sorted((self.problem(row, at) for at, row in rows), key=_place)


class _Local:
    """Files of one's own."""

    def __init__(self, path: str | list[str], folder: str | None) -> None:
        self.path = path
        self.folder = folder

    def __str__(self) -> str:
        return self.path if isinstance(self.path, str) else ", ".join(self.path)

    def paths(self) -> list[Path]:
        return [file.path for file in find_files(self.path, self.folder)]

    def digests(self) -> list[str]:
        return [file_digest(path) for path in self.paths()]

    def available(self) -> bool:
        try:
            return bool(self.paths())
        except DataError:
            return False


class _Published:
    """Files of a part of a known data set, fetched when they are read."""

    def __init__(self, corpus: str, part: str) -> None:
        self.title = f"{part} of {corpus}"
        self.place = place_of(corpus)
        self.names = known(corpus).parts[part]

    def __str__(self) -> str:
        return self.title if self.available() else f"{self.title} (not on this disk yet)"

    def paths(self) -> list[Path]:
        return [self.place.get(name) for name in self.names]

    def digests(self) -> list[str]:
        return [self.place.digest(name) for name in self.names]

    def available(self) -> bool:
        return all(self.place.path(name).is_file() for name in self.names)


def column(row: Mapping[str, Any], name: str, kind: type | tuple[type, ...], at: str) -> Any:
    """The value of a row's column.

    Raises:
        DataError: there is none, or it is of another kind.
    """
    if name not in row:
        hint = did_you_mean(name, row) or f"it has {', '.join(map(repr, row))}"
        raise DataError(f"there is no column {name!r}", hint=hint, at=at)
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool) or value == "":
        raise DataError(f"{name!r} is {value!r}", hint="it must be given", at=at)
    return value


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) of every row."""
    table = (Parquet if path.suffix == ".parquet" else JsonLines)(str(path))
    return ((at, table.parse(row, at)) for at, row in table.rows(path))


def _question(problem: Problem) -> str:
    return "\0".join(message.text for message in problem.messages)


def _place(problem: Problem) -> str:
    return hashlib.sha256(_question(problem).encode("utf-8", "surrogatepass")).hexdigest()
