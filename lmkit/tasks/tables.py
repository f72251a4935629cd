"""tables: tasks whose problems are rows of files, here or on the hub; knows no particular task."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from lmkit.data.cache import fingerprint_of
from lmkit.data.corpora import HubDataset
from lmkit.data.files import find_files
from lmkit.data.holdout import Split, check_holdout, is_held_out
from lmkit.data.sources import JsonLines, Parquet, Table
from lmkit.errors import ConfigError, DataError, did_you_mean
from lmkit.evals.task import Problem, Task


class TableTask(Task):
    """A task made of rows: a subclass says where they are published, and writes `problem`.

    The order of the problems is drawn by a hash of each, so that the first hundred are a fair
    sample of a file that is sorted by subject.

    Args:
        path: JSON lines or Parquet: a file, a folder, a glob, or a list of them. Without it the
            published files are downloaded when they are first read.
        test: files with problems to be measured on; `path` then has those to train on.
        holdout: without `test` the share of `path` to be measured on, by each question's sha256.
        folder: the YAML's folder, where relative paths are looked up first.

    Raises:
        ConfigError: `test` without `path`.
    """

    version = 1  # goes up when the same rows give other problems
    repo: str  # on the Hugging Face hub,
    train_files: str  # with globs of its files
    test_files: str

    def __init__(
        self,
        path: str | list[str] | None = None,
        test: str | list[str] | None = None,
        *,
        holdout: float = 0.05,
        folder: str | None = None,
    ) -> None:
        if path is None and test is not None:
            raise ConfigError("'test' belongs to 'path', which is not given", key="test")
        self.path = path
        self.test = test
        self.holdout = check_holdout(holdout)
        self.folder = folder
        self._known: dict[Split, list[Problem]] = {}

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
        if split == "all":
            return [*self.problems("train"), *self.problems("validation")]
        if split not in self._known:
            self._known[split] = sorted(self._read(split), key=_place)
        return self._known[split]

    def fingerprint(self) -> str:
        held_out = self.holdout if len(self._tables) == 1 else None
        files = [table.fingerprint() for table in self._tables]
        about = [type(self).__name__, self.version, self.settings(), held_out, files]
        return fingerprint_of(about)

    def describe(self) -> str:
        return f"{self.name}: {' and '.join(table.describe() for table in self._tables)}"

    def available(self) -> bool:
        try:
            return all(table.available() for table in self._tables)
        except DataError:
            return False

    @cached_property
    def _tables(self) -> list[HubDataset | Table]:
        """The files to train on and those to be measured on, or one of both."""
        if self.path is None:
            return [
                HubDataset(self.repo, files, holdout=0)
                for files in (self.train_files, self.test_files)
            ]
        if self.test is None:
            return [_local(self.path, self.holdout, self.folder)]
        return [_local(path, 0, self.folder) for path in (self.path, self.test)]

    def _read(self, split: Split) -> Iterator[Problem]:
        held_out = split == "validation"
        if len(self._tables) == 2:
            for at, row in _rows(self._tables[held_out]):
                yield self.problem(row, at)
            return
        for at, row in _rows(self._tables[0]):
            problem = self.problem(row, at)
            if is_held_out(_question(problem), self.holdout) == held_out:
                yield problem


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


def _local(path: str | list[str], holdout: float, folder: str | None) -> Table:
    parquet = all(file.path.suffix == ".parquet" for file in find_files(path, folder))
    return (Parquet if parquet else JsonLines)(path, holdout=holdout, folder=folder)


def _rows(table: HubDataset | Table) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) of every row."""
    if isinstance(table, HubDataset):
        table.fingerprint()  # downloads what is not there yet
        table = Parquet(str(table.folder / "**/*.parquet"))
    for file in table.files:
        yield from table.rows(file.path)


def _question(problem: Problem) -> str:
    return "\0".join(message.text for message in problem.messages)


def _place(problem: Problem) -> str:
    return hashlib.sha256(_question(problem).encode("utf-8", "surrogatepass")).hexdigest()
