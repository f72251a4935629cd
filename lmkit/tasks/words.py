"""words: a list of words to make problems of, the package's own or the user's."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

from lmkit.data.files import find_files, read_text
from lmkit.errors import DataError


class Words(tuple[str, ...]):
    """Different words in a fixed order; as text, how many they are and their sha256."""

    def __str__(self) -> str:
        digest = hashlib.sha256("\n".join(self).encode()).hexdigest()
        return f"{len(self):,}, sha256 {digest[:16]}"


def read_words(path: str | None = None, folder: str | None = None) -> Words:
    """The words of a file with one a line, each once.

    Args:
        path: default the list in the package: 676 words of 3 to 11 letters, a few not ASCII.
        folder: where a relative path is looked up before the current folder.

    Raises:
        DataError: the file is missing or empty, or a line is not letters only; names the line.
    """
    if path is None:
        files = [Path(__file__).with_name("words.txt")]
    else:
        files = [found.path for found in find_files(path, folder)]
    words: dict[str, None] = {}
    for file in files:
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            word = unicodedata.normalize("NFC", line.strip())
            if word and not word.isalpha():
                what = f"{word!r} is not a word of letters only"
                raise DataError(what, hint="write one a line", at=f"{file}:{number}")
            if word:
                words[word] = None
    if not words:
        raise DataError("no word in it", hint="write one a line", at=files[0])
    return Words(words)
