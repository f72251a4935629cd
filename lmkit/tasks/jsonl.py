"""jsonl: tasks of one's own, a problem a line; knows not what a line means."""

from __future__ import annotations

import json
import sys
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

from lmkit.data.cache import file_digest, fingerprint_of
from lmkit.data.files import Found, find_files, open_lines
from lmkit.data.holdout import Split, check_holdout
from lmkit.errors import ConfigError, DataError, did_you_mean
from lmkit.evals.task import Problem, Task
from lmkit.tasks.held_out import held_out, without


class JsonlTask(Task):
    """A task whose problems are lines of JSON: a subclass writes `problem`.

    Args:
        path: files, also packed as `.gz` or `.zst`, folders or globs; a relative one is looked up
            beside the YAML first, then in the current folder.
        test: files with problems to be measured on; `path` then has those to train on, and of
            these a question that is in `test` is left out.
        holdout: without `test` the share of `path` to be measured on, by each question's sha256.
        on_error: what becomes of a line that cannot be used: `raise`, or `skip` and count it.
        name: in tables and metrics, where one class is used twice.
        folder: the YAML's folder.

    Attributes:
        skipped: how many lines were passed over; known once the problems are read.
    """

    version = 1  # goes up when the same lines give other problems

    def __init__(
        self,
        path: str | list[str],
        test: str | list[str] | None = None,
        *,
        holdout: float = 0.05,
        on_error: Literal["raise", "skip"] = "raise",
        name: str | None = None,
        folder: str | None = None,
    ) -> None:
        if on_error not in ("raise", "skip"):
            hint = "it is raise or skip"
            raise ConfigError(f"on_error is {on_error!r}", hint=hint, key="on_error")
        self.path = path
        self.test = test
        self.holdout = check_holdout(holdout)
        self.on_error = on_error
        self.name = name or self.name
        self.folder = folder
        self.skipped = 0

    @abstractmethod
    def problem(self, row: Any, at: str) -> Problem:
        """The problem of a line, read as JSON.

        Raises:
            DataError: it has no answer, or another form; names `at`.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What beside the files decides which problems there are, as plain data."""

    def problems(self, split: Split) -> list[Problem]:
        """All are read at the first call, and kept."""
        train, validation = self._sides
        return {"train": train, "validation": validation, "all": train + validation}[split]

    def fingerprint(self) -> str:
        contents = [
            [[file.name, file_digest(file.path)] for file in self._files(path)]
            for path in (self.path, self.test)
        ]
        about = [self.version, self.holdout, self.on_error, self.settings(), contents]
        return fingerprint_of([type(self).__name__, *about])

    def describe(self) -> str:
        train, validation = (f"{len(side):,}" for side in self._sides)
        skipped = f", {self.skipped:,} lines skipped" if self.skipped else ""
        return f"{type(self).__name__}: {train} problems, {validation} held out{skipped}"

    def available(self) -> bool:
        try:
            return bool(self._files(self.path))
        except DataError:
            return False

    def _files(self, path: str | list[str] | None) -> list[Found]:
        return [] if path is None else find_files(path, self.folder)

    @cached_property
    def _sides(self) -> tuple[list[Problem], list[Problem]]:
        """What is trained and what is held out."""
        problems = self._read(self.path)
        if self.test is not None:
            validation = self._read(self.test)
        else:
            validation = held_out(problems, self.holdout, lambda problem: repr(problem.messages))
        return without(problems, validation), validation

    def _read(self, path: str | list[str]) -> list[Problem]:
        files = self._files(path)
        problems: list[Problem] = []
        errors: list[DataError] = []
        for at, line in _lines(files):
            try:
                problems.append(self.problem(_parse(line, at), at))
            except DataError as error:
                if self.on_error == "raise":
                    raise
                errors.append(error)
        if errors:
            self.skipped += len(errors)
            total = len(errors) + len(problems)
            told = f"{len(errors):,} of {total:,} lines skipped, the first: {errors[0]}"
            print(told, file=sys.stderr)
        if not problems:
            raise DataError("no line with a problem", hint="write one a line", at=files[0].path)
        return problems


def entry(row: Any, name: str, at: str) -> Any:
    """The value of a line's key.

    Raises:
        DataError: there is none.
    """
    if not isinstance(row, dict):
        hint = f"write {{{name}: ...}}"
        raise DataError(f"a JSON {type(row).__name__}, not an object", hint=hint, at=at)
    if name not in row:
        hint = did_you_mean(name, row) or f"it has {', '.join(map(repr, row)) or 'nothing'}"
        raise DataError(f"there is no {name!r}", hint=hint, at=at)
    return row[name]


def _lines(files: list[Found]) -> Iterator[tuple[str, bytes]]:
    """(place, line) of each line that is not blank."""
    for file in files:
        for number, line in enumerate(open_lines(file.path), start=1):
            if line.strip():
                yield f"{file.path}:{number}", line.removeprefix(b"\xef\xbb\xbf")


def _parse(line: bytes, at: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", hint="one object a line", at=at) from error
