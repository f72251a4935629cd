"""generate: prompts in, text out; the text around `inference.decode`, which knows only ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from lmkit.inference.decode import decode
from lmkit.inference.sampling import Sampling
from lmkit.nn.cache import Cache
from lmkit.prompts import Completion, Prompt
from lmkit.text import chat
from lmkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lmkit.model.base import LMBase


class Writing:
    """A model continuing some prompts, all at once."""

    def __init__(self, model: LMBase, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        tokenizer = model.need_tokenizer()
        model.check()
        self.model = model
        self.sampling = sampling
        self.stop_ids = {tokenizer.bos, tokenizer.eos}  # bos would begin the next document
        self.opened = [opening(tokenizer, prompt) for prompt in prompts]
        self.rows = [_Row(prompt, tokenizer, sampling.stop) for prompt in prompts]

    def completions(self) -> list[Completion]:
        """All of it, when it is done."""
        texts: list[list[str]] = [[] for _ in self.rows]
        for index, piece in self.stream():
            texts[index].append(piece)
        return [row.completion("".join(text)) for row, text in zip(self.rows, texts, strict=True)]

    def stream(self) -> Iterator[tuple[int, str]]:
        """(prompt's index, piece of text) as soon as the piece is certain."""
        ended: set[int] = set()
        with self.model.evaluating():
            for index, token in self._decode(ended):
                row = self.rows[index]
                piece = row.end() if token in self.stop_ids else row.push(token)
                if row.finish == "stop":
                    ended.add(index)
                if piece:
                    yield index, piece
        for index, row in enumerate(self.rows):
            piece = "" if row.finish == "stop" else row.flush()
            if piece:
                yield index, piece

    def _decode(self, ended: set[int]) -> Iterator[tuple[int, int]]:
        model = self.model
        wanted = max(map(len, self.opened), default=0) + self.sampling.max_new_tokens
        return decode(
            self._forward,
            self.opened,
            self.sampling,
            max_len=model.max_len,
            vocab_size=model.need_tokenizer().vocab_size,
            device=model.device,
            stop_ids=self.stop_ids,
            cache=model.make_cache(len(self.rows), min(model.max_len, wanted)),
            ended=ended,
        )

    def _forward(self, tokens: Tensor, cache: Cache | None) -> Tensor:
        return self.model.logits(tokens, cache=cache)


def opening(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """The ids that a model is to continue: bos, then the prompt, the text or the messages."""
    if prompt.messages:
        return chat.ask(tokenizer, prompt.messages)
    return [tokenizer.bos, *tokenizer.encode(prompt.prompt or prompt.text or "")]


class _Row:
    """One prompt's text as it grows. What may still become a stop string is held back."""

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self.prompt = prompt
        self.stops = stops
        self.decoder = tokenizer.stream_decoder()
        self.ids: list[int] = []
        self.held = ""
        self.finish: Literal["stop", "length"] = "length"

    def push(self, token: int) -> str:
        """The text that has become certain by this id."""
        self.ids.append(token)
        text = self.held + self.decoder.push(token)
        found = [at for at in map(text.find, self.stops) if at >= 0]
        if found:
            self.finish = "stop"
            return text[: min(found)]
        certain = len(text) - max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[certain:]
        return text[:certain]

    def end(self) -> str:
        """The model has ended its text: the rest of it."""
        self.finish = "stop"
        return self.flush()

    def flush(self) -> str:
        """What was held back, and what an unfinished character leaves."""
        return self.held + self.decoder.finish()

    def completion(self, text: str) -> Completion:
        prompt = self.prompt
        said = prompt.messages[-1].content if prompt.messages else prompt.prompt or prompt.text
        return Completion(said or "", text, tuple(self.ids), self.finish)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that a stop string begins with, but is not all of."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
