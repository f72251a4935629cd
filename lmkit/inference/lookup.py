"""lookup: what comes next if a text repeats itself; knows no model.

Prompt lookup decoding (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding; with references
beside the prompt Yang et al., arXiv 2304.04487): where the last ids of a text stood in it before,
what followed them then is a guess at what follows now. A model reads all of a guess at once, and
what it would have chosen itself stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmkit.inference.rows import Rows

LONGEST, SHORTEST = 3, 2  # ids that must be the same; a single one says too little


class Lookup:
    """Where the ends of one text have stood in it before.

    Args:
        text: may grow at its end.
    """

    def __init__(self, text: Sequence[int]) -> None:
        self.text = text
        self._behind: dict[tuple[int, ...], int] = {}  # some ids: the last place behind them
        self._known = 0

    def guess(self, most: int) -> list[int]:
        """At most so many ids that may come next; none without a precedent.

        A precedent that reaches to the end of the text goes on from its own beginning, as a loop.
        """
        text, length = self.text, len(self.text)
        for place in range(self._known + 1, length):
            for size in range(SHORTEST, min(LONGEST, place) + 1):
                self._behind[tuple(text[place - size : place])] = place
        self._known = length - 1
        for size in range(LONGEST, SHORTEST - 1, -1):
            behind = self._behind.get(tuple(text[-size:]))
            if behind is not None:
                loop = length - behind
                return [text[behind + step % loop] for step in range(most)]
        return []


class Guesses:
    """What may come next in each of some rows, as far as it would be used.

    Args:
        most: ids a guess; 0 for none at all.
        max_len: tokens that the model can see at once.
    """

    def __init__(self, rows: Rows, most: int, max_len: int) -> None:
        self.rows = rows
        self.most = most
        self.max_len = max_len
        self._lookups: dict[int, Lookup] = {}

    def __call__(self, row: int, context: int) -> Sequence[int]:
        """A guess for the row, of which the model sees so many tokens now."""
        if not self.most:
            return ()
        # one id comes behind the guess, and the context must not move on within it
        left = self.rows.most - self.rows.written(row) - 1
        most = min(self.most, left, self.max_len - context)
        if most <= 0:
            return ()
        if row not in self._lookups:
            self._lookups[row] = Lookup(self.rows.texts[row])
        return self._lookups[row].guess(most)


def agreement(guess: Sequence[int], came: Sequence[int]) -> int:
    """How many ids of a guess came, up to the first that did not."""
    for count, (one, other) in enumerate(zip(guess, came, strict=False)):
        if one != other:
            return count
    return min(len(guess), len(came))
