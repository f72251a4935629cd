"""conversation: a model that is talked to, and its memory from turn to turn; knows no terminal."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from lmkit.inference.sampling import Sampling
from lmkit.model import LMBase
from lmkit.model.generate import Piece, Writing
from lmkit.nn.cache import Cache
from lmkit.prompts import Completion, Message, Prompt
from lmkit.text import chat


class Conversation:
    """What a user and a model say to each other.

    What the model has read it keeps in its cache: a turn costs what is new in it. When question and
    answer no longer fit into the context, the oldest turns are not read any more, whole ones.

    Args:
        model: one that was taught to talk answers best; any will do.
        sampling: of every answer. Each turn has a seed of its own, made of `sampling.seed` and the
            number of questions before.
        system: what the model is told beforehand.
        compile: compile the step from token to token; see LMBase.generate.

    Attributes:
        messages: all that was said, the system's word included; may be saved and trained on.
        unread: how many of them, not counting the system's, the model no longer sees.
        answer: the last one, with the reason why it ended; None before the first.
    """

    def __init__(
        self,
        model: LMBase,
        sampling: Sampling = Sampling(),
        system: str | None = None,
        compile: bool = False,
    ) -> None:
        self.model = model
        self.sampling = sampling
        self.system = system
        self.compile = compile
        self.answer: Completion | None = None
        self.unread = 0
        self._turns: list[Message] = []
        self._questions = 0
        self._cache: Cache | None = None
        self._read: list[int] = []  # begins with the ids that the cache has read

    @property
    def messages(self) -> list[Message]:
        return [*self._system, *self._turns]

    @property
    def _system(self) -> list[Message]:
        return [Message("system", self.system)] if self.system else []

    def reset(self) -> None:
        """Forget what was said; the system's word stays."""
        self._turns = []
        self.unread = 0
        self.answer = None

    def say(self, text: str) -> Generator[Piece, None, None]:
        """Ask; the pieces of the answer as they come, those of tools too.

        An answer that is broken off (the iterator closed, or Ctrl+C) stays in the conversation as
        far as it went. A question without any answer leaves no trace.

        Raises:
            DataError: the model's template has no place for this (a system's word, say).
            NumericError: logits that are not finite.
        """
        question = Message("user", text)
        writing = Writing(
            self.model,
            [Prompt(messages=tuple(self._visible(question)))],
            self.sampling,
            seeds=[self.sampling.seed * 2**32 + self._questions],
            compile=self.compile,
        )
        ids = writing.opened[0]
        writing.cache = self._prepared(ids)
        self._questions += 1
        pieces = writing.pieces()
        try:
            yield from pieces
        except (Exception, KeyboardInterrupt):
            self._cache = None  # a layer may have read what the next one has not
            raise
        finally:
            self.answer = writing.rows[0].completion()
            self._remember([*ids, *self.answer.ids])
            if any(part.text for part in self.answer.parts):
                self._turns += [question, Message("assistant", self.answer.parts)]

    def _visible(self, question: Message) -> Sequence[Message]:
        """What is to be read: all, or without as many of the oldest turns as must go."""
        tokenizer, max_len = self.model.need_tokenizer(), self.model.max_len
        room = max_len - min(self.sampling.max_new_tokens, max_len // 2)
        while True:
            visible = [*self._system, *self._turns[self.unread :], question]
            if self.unread == len(self._turns) or len(chat.ask(tokenizer, visible)) <= room:
                return visible
            self.unread += 2  # a question and its answer

    def _prepared(self, ids: list[int]) -> Cache | None:
        """The cache, with all that it has read and that is not in `ids` forgotten."""
        if self._cache is None:
            self._cache, self._read = self.model.make_cache(1, self.model.max_len), []
        if self._cache is not None:
            pairs = enumerate(zip(ids[:-1], self._read, strict=False))
            same = min(len(ids) - 1, len(self._read))
            self._cache.rewind([next((n for n, (a, b) in pairs if a != b), same)])
        return self._cache

    def _remember(self, ids: list[int]) -> None:
        self._read = ids
        if len(ids) > self.model.max_len:  # the cache has begun anew, in the middle of the text
            self._cache = None
