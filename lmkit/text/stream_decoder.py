"""stream_decoder: text as its ids arrive, whole characters only; knows no vocabulary."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Text as ids arrive; a character whose bytes lie in several ids comes out whole."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that this id completes, perhaps none."""
        return self._decoder.decode(self._bytes_of(token_id))

    def finish(self) -> str:
        """What an unfinished character leaves: U+FFFD, or nothing."""
        return self._decoder.decode(b"", final=True)
