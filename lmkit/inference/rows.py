"""rows: texts that grow an id at a time, each up to its end; knows no model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from lmkit.errors import ModelError


class Chosen(NamedTuple):
    """One more id of a row; `forced`: not the model chose it but `after`."""

    row: int
    id: int
    forced: bool


class Rows:
    """What is written behind some prompts.

    Args:
        prompts: lists of ids, none empty.
        most: ids that a row may grow by.
        samples: rows a prompt, numbered prompt by prompt; each prompt is read once.
        stop_ids: a row that chooses one of them ends with it; never penalised as repeated.
        after: called with the row and the id after each choice; gives the ids that are put behind
            it. They count as new ones, and the model reads them together with what it chose.

    Attributes:
        texts: of each row the prompt and what has been written behind it.
        begun: of each row the length of its prompt.
        ended: rows that do not grow any more. Whoever reads what is written may put in some too.

    Raises:
        ModelError: an empty prompt, or no samples.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        samples: int = 1,
        stop_ids: Collection[int] = (),
        after: Callable[[int, int], Sequence[int]] | None = None,
    ) -> None:
        if not all(prompts):
            raise ModelError(
                "a prompt without tokens cannot be continued", hint="begin it with bos"
            )
        if samples < 1:
            raise ModelError(f"{samples} samples of a prompt", hint="ask for 1 or more")
        self.samples = samples
        self.most = most
        self.stop_ids = frozenset(stop_ids)
        self.after = after
        self.ended: set[int] = set()
        self.texts = [list(prompt) for prompt in prompts for _ in range(samples)]
        self.begun = [len(text) for text in self.texts]

    def __len__(self) -> int:
        return len(self.texts)

    def written(self, row: int) -> int:
        """How many ids the row has grown by."""
        return len(self.texts[row]) - self.begun[row]

    def write(self, row: int, ids: Sequence[int]) -> Iterator[Chosen]:
        """Put chosen ids behind the row, up to one that ends it or has others put behind it."""
        text, last = self.texts[row], self.begun[row] + self.most
        for token in ids:
            text.append(token)
            if token in self.stop_ids:
                self.ended.add(row)
            yield Chosen(row, token, False)
            room = last - len(text)
            forced: Sequence[int] = ()
            if self.after is not None and row not in self.ended:
                forced = self.after(row, token)[:room]
            for put in forced:
                text.append(put)
                yield Chosen(row, put, True)
            if len(forced) == room:
                self.ended.add(row)
            if forced or row in self.ended:
                return
