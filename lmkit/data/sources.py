"""sources: where documents come from, and which of them are held out; knows no tokens."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lmkit.data.cache import file_digest, fingerprint_of
from lmkit.data.columns import Columns
from lmkit.data.files import Found, extra, find_files, open_lines, read_text, reading
from lmkit.data.holdout import Split, check_holdout, share_of, split_documents
from lmkit.errors import DataError
from lmkit.prompts import Message, Prompt

logger = logging.getLogger(__name__)

_PACKED = (".gz", ".zst", ".parquet")  # their size says little about the text in them


class Source(ABC):
    """A collection of documents. A plug-in writes `documents` and `fingerprint`."""

    @abstractmethod
    def documents(self, split: Split) -> Iterator[Prompt]:
        """The documents of a split, in an order that never changes; all text, or all prompts.

        A string will do for a text, and a mapping such as `{"prompt": ..., "truth": ...}`: what
        reads a source (`documents.read_documents`) makes Prompts of them.

        Args:
            split: `train`, `validation` (held out: the two have nothing in common), or `all`.

        Raises:
            DataError: a file is missing, empty or unreadable; names it, and the line.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 over the content and all settings that decide what `documents` yields."""

    def shards(self, split: Split) -> Sequence[Source] | None:
        """The documents of a split as sources to be read one after another, each to its end.

        For documents whose order means nothing: training then begins with the first source while
        the others are fetched and tokenised. None: they belong together.
        """
        return None

    def describe(self) -> str:
        """One line for a reader: what it is and how much."""
        return type(self).__name__

    def available(self) -> bool:
        """False if the documents have to be downloaded, or are missing."""
        return True

    def size(self, split: Split) -> int | None:
        """About how many bytes of text, for a progress bar; None if that is not known."""
        return None


class InMemory(Source):
    """A list written in Python or in the YAML.

    Args:
        prompts: texts, or mappings of one of the shapes `{text}`, `{prompt, truth}`, `{messages}`,
            `{prompt, chosen, rejected}`.
        holdout: share of the documents kept for validation.
    """

    def __init__(
        self, prompts: Sequence[str | Mapping[str, Any] | Prompt], *, holdout: float = 0.05
    ) -> None:
        self.holdout = check_holdout(holdout)
        self.prompts = [
            Prompt(text=value, at=f"prompts[{number}]")
            if isinstance(value, str)
            else Prompt.of(value, at=f"prompts[{number}]")
            for number, value in enumerate(prompts)
        ]

    def documents(self, split: Split) -> Iterator[Prompt]:
        if not self.prompts:
            raise DataError("the list of prompts is empty")
        keyed = ((_content(prompt), prompt) for prompt in self.prompts)
        return split_documents(keyed, split, self.holdout)

    def fingerprint(self) -> str:
        shapes = [
            [
                *(prompt.text, prompt.prompt, prompt.truth),
                [asdict(turn) for turn in prompt.messages],
                *(answer for answer in (prompt.chosen, prompt.rejected) if answer is not None),
            ]
            for prompt in self.prompts
        ]
        return fingerprint_of(["InMemory", self.holdout, shapes])

    def describe(self) -> str:
        return f"InMemory: {len(self.prompts):,} prompts, {self.holdout:.0%} held out"


class FileSource(Source):
    """Documents that lie in files: what text files and tables have in common.

    Args:
        path: a file, a folder, a glob, or a list of them; a relative one is looked up beside the
            YAML first, then in the current folder.
        holdout: share of the documents kept for validation.
        folder: the YAML's folder.
    """

    def __init__(
        self, path: str | list[str], *, holdout: float = 0.05, folder: str | None = None
    ) -> None:
        self.path = path
        self.holdout = check_holdout(holdout)
        self.folder = folder

    @cached_property
    def files(self) -> list[Found]:
        """The files, in a fixed order."""
        return find_files(self.path, self.folder)

    @abstractmethod
    def keyed_documents(self) -> Iterator[tuple[str, Prompt]]:
        """All documents, each with the key that decides whether it is held out."""

    def settings(self) -> dict[str, Any]:
        """What beside the files' content decides which documents there are."""
        return {}

    def documents(self, split: Split) -> Iterator[Prompt]:
        if not any(file.path.stat().st_size for file in self.files):
            what = "the file is empty" if len(self.files) == 1 else "all files are empty"
            raise DataError(what, hint="name one with text", at=self.files[0].path)
        return split_documents(self.keyed_documents(), split, self.holdout)

    def fingerprint(self) -> str:
        contents = [[file.name, file_digest(file.path)] for file in self.files]
        about = [type(self).__name__, self.holdout, self.settings(), contents]
        return fingerprint_of(about)

    def describe(self) -> str:
        size = sum(file.path.stat().st_size for file in self.files)
        one = len(self.files) == 1
        files = self.files[0].name if one else f"{len(self.files):,} files"
        name = type(self).__name__
        return f"{name}: {files}, {size / 1e6:,.1f} MB, {self.holdout:.0%} held out"

    def available(self) -> bool:
        try:
            return bool(self.files)
        except DataError:
            return False

    def size(self, split: Split) -> int | None:
        if any(file.path.suffix in _PACKED for file in self.files):
            return None
        size = sum(file.path.stat().st_size for file in self.files)
        return round(share_of(split, self.holdout) * size)


class TextFiles(FileSource):
    """Plain text: every file is a document. A single one is divided, its end is held out.

    Args:
        per_file: False: documents are separated by blank lines instead, and may be many in a file.
            They are read one by one; a file that is one document has to fit in memory.
        encoding: of all files.
    """

    def __init__(
        self,
        path: str | list[str],
        *,
        holdout: float = 0.05,
        per_file: bool = True,
        encoding: str = "utf-8",
        folder: str | None = None,
    ) -> None:
        super().__init__(path, holdout=holdout, folder=folder)
        self.per_file = per_file
        self.encoding = encoding

    def settings(self) -> dict[str, Any]:
        return {"per_file": self.per_file, "encoding": self.encoding}

    def keyed_documents(self) -> Iterator[tuple[str, Prompt]]:
        for file in self.files:
            if self.per_file:
                text = read_text(file.path, self.encoding)
                if text.strip():
                    yield file.name, Prompt(text=text, at=str(file.path))
            else:
                for number, text in self._paragraphs(file.path):
                    yield text, Prompt(text=text, at=f"{file.path}:{number}")

    def _paragraphs(self, path: Path) -> Iterator[tuple[int, str]]:
        """(line, text) of each run of lines that are not blank."""
        lines: list[str] = []
        number = 0
        with reading(path):
            for number, line in enumerate(_decoded(path, self.encoding), start=1):
                if line.strip():
                    lines.append(line)
                elif lines:
                    yield number - len(lines), "".join(lines)
                    lines = []
        if lines:
            yield number - len(lines) + 1, "".join(lines)


class Table(FileSource):
    """Rows with columns, each row a document: what `JsonLines` and `Parquet` have in common.

    Args:
        text: name of the column that is a text;
        prompt: or that is a prompt,
        truth: and its right answer;
        messages: or that is a conversation, a list of {role, content};
        chosen: with a prompt or a conversation: the preferred answer,
        rejected: and the other one;
        on_error: what becomes of a row that is no prompt: `raise`, or `skip` and count it.
    """

    def __init__(
        self,
        path: str | list[str],
        *,
        text: str | None = None,
        prompt: str | None = None,
        truth: str | None = None,
        messages: str | None = None,
        chosen: str | None = None,
        rejected: str | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        holdout: float = 0.05,
        folder: str | None = None,
    ) -> None:
        super().__init__(path, holdout=holdout, folder=folder)
        self.columns = Columns(text, prompt, truth, messages, chosen, rejected)
        self.on_error = on_error

    def settings(self) -> dict[str, Any]:
        later = {} if self.on_error == "raise" else {"on_error": self.on_error}
        return {**self.columns.settings(), **later}

    @abstractmethod
    def rows(self, path: Path) -> Iterator[tuple[str, Any]]:
        """(place, row) of each row of a file; a row as it was read."""

    def parse(self, row: Any, at: str) -> Mapping[str, Any]:
        """The row's columns; DataError if it has none."""
        return row

    def keyed_documents(self) -> Iterator[tuple[str, Prompt]]:
        for file in self.files:
            errors: list[DataError] = []
            for at, row in self.rows(file.path):
                try:
                    prompt = self.columns.prompt_of(self.parse(row, at), at)
                except DataError as error:
                    if self.on_error == "raise":
                        raise
                    errors.append(error)
                else:
                    yield _content(prompt), prompt
            if errors:
                logger.warning("%s rows left out, the first: %s", f"{len(errors):,}", errors[0])


class JsonLines(Table):
    """A JSON object a line: `.jsonl`, also packed as `.gz` or (with the data extra) `.zst`."""

    def rows(self, path: Path) -> Iterator[tuple[str, Any]]:
        for number, line in enumerate(open_lines(path), start=1):
            if line.strip():
                yield f"{path}:{number}", line

    def parse(self, row: Any, at: str) -> Mapping[str, Any]:
        try:
            found = json.loads(row.removeprefix(b"\xef\xbb\xbf"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}", hint="one object a line", at=at) from error
        if not isinstance(found, dict):
            raise DataError(f"a JSON {type(found).__name__}, not an object", at=at)
        return found


class Parquet(Table):
    """Parquet files, read a group of rows at a time. Needs the data extra."""

    def rows(self, path: Path) -> Iterator[tuple[str, Any]]:
        parquet = extra("pyarrow.parquet", at=path)
        wanted = [column for column in asdict(self.columns).values() if column is not None]
        number = 0
        try:
            with parquet.ParquetFile(path) as table:
                names = table.schema_arrow.names
                columns = wanted if wanted and set(wanted) <= set(names) else names
                for group in table.iter_batches(columns=columns):
                    for row in group.to_pylist():
                        number += 1
                        yield f"{path}: row {number}", row
        except (OSError, extra("pyarrow").ArrowException) as error:
            raise DataError(f"not a readable Parquet file: {error}", at=path) from error


def _decoded(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a text file, checked one by one."""
    with path.open(encoding=encoding, newline="") as file:
        try:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise DataError("a binary file (a NUL)", at=f"{path}:{number}")
                yield line.removeprefix("\ufeff") if number == 1 else line
        except UnicodeDecodeError as error:
            raise DataError(
                f"not {encoding} text", hint="name its encoding:, or leave the file out", at=path
            ) from error


def _content(prompt: Prompt) -> str:
    """What two prompts must share to be the same document; of a preference the question."""
    if prompt.text is not None:
        return prompt.text
    if prompt.messages:
        return "\0".join(text for message in prompt.messages for text in _turn(message))
    return f"{prompt.prompt}\0{prompt.truth or ''}"


def _turn(message: Message) -> list[str]:
    if isinstance(message.content, str):
        return [message.role, message.content]
    return [message.role, *(text for part in message.parts for text in (part.type, part.text))]
