"""generate: prompts in, text out; the text around `inference.decode`, which knows only ids."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from lmkit.errors import ModelError
from lmkit.inference import Chosen, Rows, context_start, decode
from lmkit.inference.sampling import Sampling
from lmkit.inference.tools import ToolUse
from lmkit.nn.cache import Cache
from lmkit.prompts import Completion, Part, Prompt
from lmkit.text import chat
from lmkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lmkit.model.base import LMBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """A little more of what row `index` writes; `kind` is that of a Part: what the reader sees
    (text), a call of the tool (python) or what the tool gave back (python_output)."""

    index: int
    kind: str
    text: str


class Writing:
    """A model continuing some prompts, all at once.

    A row ends at bos (it would begin the next document), at eos, where an assistant's turn ends and
    at what `sampling` names. A conversation has the calculator, if its template has marks for it.

    Args:
        samples: rows a prompt, one after the other.
        seeds: one a row.
        cache: what has been read of the prompts before; made anew by default.
        batch_size: rows at once; None for all.
        lookup: ids that are guessed ahead at most.
        compile: step from token to token by the model's `stepper`.

    Attributes:
        opened: the ids of each prompt.
        rows: what each row has written so far.
    """

    def __init__(
        self,
        model: LMBase,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        samples: int = 1,
        seeds: Sequence[int] | None = None,
        cache: Cache | None = None,
        batch_size: int | None = None,
        lookup: int = 0,
        compile: bool = False,
    ) -> None:
        tokenizer = model.need_tokenizer()
        model.check()
        self.model = model
        self.sampling = sampling
        self.samples = samples
        self.seeds = seeds
        self.cache = cache
        self.batch_size = batch_size
        self.lookup = lookup
        self.compile = compile
        self.stop_ids = {tokenizer.bos, tokenizer.eos, *chat.end_ids(tokenizer), *sampling.stop_ids}
        if max(self.stop_ids) >= tokenizer.vocab_size:
            raise ModelError(
                f"stop_ids names {max(self.stop_ids)}, the last id is {tokenizer.vocab_size - 1}"
            )
        self.opened = [opening(tokenizer, prompt) for prompt in prompts]
        several = [prompt for prompt in prompts for _ in range(samples)]
        self.rows = [_Row(prompt, tokenizer, sampling) for prompt in several]
        self._warn_of_long_prompts()

    def completions(self) -> list[Completion]:
        """All of it, when it is done."""
        for _ in self.pieces():
            pass
        return [row.completion() for row in self.rows]

    def stream(self) -> Iterator[tuple[int, str]]:
        """(row, piece of text) as soon as the piece is certain; what concerns tools is left out."""
        return ((piece.index, piece.text) for piece in self.pieces() if piece.kind == "text")

    def pieces(self) -> Iterator[Piece]:
        """All that is written, as soon as it is certain."""
        rows = Rows(
            self.opened,
            self.sampling.max_new_tokens,
            self.samples,
            self.stop_ids,
            self._after if any(row.tool for row in self.rows) else None,
        )
        with self.model.evaluating():
            for index, token, forced in self._decode(rows):
                row = self.rows[index]
                new = row.end(token) if token in self.stop_ids else row.push(token, forced)
                if row.finish == "stop":
                    rows.ended.add(index)
                yield from (Piece(index, *piece) for piece in new)
        for index, row in enumerate(self.rows):
            if row.finish == "length":
                yield from (Piece(index, *piece) for piece in row.flush())

    def _decode(self, rows: Rows) -> Iterator[Chosen]:
        model = self.model
        return decode(
            model.stepper if self.compile else self._forward,
            rows,
            self.sampling,
            max_len=model.max_len,
            vocab_size=model.need_tokenizer().vocab_size,
            device=model.device,
            cache=self.cache,
            seeds=self.seeds,
            make_cache=model.make_cache,
            slots=self.batch_size,
            lookup=self.lookup,
        )

    def _forward(self, tokens: Tensor, cache: Cache | None) -> Tensor:
        return self.model.logits(tokens, cache=cache)

    def _after(self, row: int, token: int) -> list[int]:
        tool = self.rows[row].tool
        return [] if tool is None else tool(token)

    def _warn_of_long_prompts(self) -> None:
        max_len = self.model.max_len
        long = [len(ids) for ids in self.opened if len(ids) > max_len]
        if long:
            _warn_once(
                f"{len(long)} of {len(self.opened)} prompts do not fit into the model's context of "
                f"{max_len} tokens: of the longest ({max(long)}) the first "
                f"{context_start(max(long), max_len)} are not read"
            )


def opening(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """The ids that a model is to continue: bos, then the prompt, the text or the messages."""
    if prompt.messages:
        return chat.ask(tokenizer, prompt.messages)
    return [tokenizer.bos, *tokenizer.encode(prompt.prompt or prompt.text or "")]


class _Row:
    """One prompt's answer as it grows. What may still become a stop string is held back.

    Special tokens are no text. Those around a call and around its result tell the parts apart.
    """

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer, sampling: Sampling) -> None:
        self.prompt = prompt
        self.stops = sampling.stop
        marks_of_end = (
            chat.end_ids(tokenizer) if prompt.messages else {tokenizer.bos, tokenizer.eos}
        )
        self.ends = {*marks_of_end, *sampling.stop_ids}
        self.ids: list[int] = []
        self.forced: set[int] = set()
        self.end_id: int | None = None
        self.finish: Literal["stop", "length"] = "length"
        self.special = set(tokenizer.special_tokens.values())
        self.tool: ToolUse | None = None
        self._kinds: dict[int, str] = {}  # what a mark begins
        marks = chat.tool_ids(tokenizer) if prompt.messages else None
        if marks is not None:
            self.tool = ToolUse(marks, tokenizer.decode, tokenizer.encode)
            self._kinds = {
                marks.python_start: "python",
                marks.python_end: "text",
                marks.output_start: "python_output",
                marks.output_end: "text",
            }
        self._kind = "text"
        self._parts: list[tuple[str, list[str]]] = []
        self._decoder = tokenizer.stream_decoder()
        self._held = ""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What has been written so far."""
        return tuple(Part(kind, "".join(pieces)) for kind, pieces in self._parts)

    def push(self, token: int, forced: bool) -> list[tuple[str, str]]:
        """What has become certain by this id: none or one (kind, text)."""
        if forced:
            self.forced.add(len(self.ids))
        self.ids.append(token)
        if token in self._kinds:
            return self._turn_to(self._kinds[token])
        if token in self.special:
            return []
        text = self._held + self._decoder.push(token)
        if self._kind != "text":
            return self._say(text)
        found = [at for at in map(text.find, self.stops) if at >= 0]
        if found:
            self.finish = "stop"
            return self._say(text[: min(found)])
        certain = len(text) - max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[certain:]
        return self._say(text[:certain])

    def end(self, token: int) -> list[tuple[str, str]]:
        """The row ends with this id: the rest of it. A turn that goes over into the next document
        has not ended."""
        self.end_id = token
        self.finish = "stop" if token in self.ends else "length"
        return self.flush()

    def flush(self) -> list[tuple[str, str]]:
        """What was held back, and what an unfinished character leaves."""
        held, self._held = self._held, ""
        return self._say(held + self._decoder.finish())

    def completion(self) -> Completion:
        prompt = self.prompt
        said = prompt.messages[-1].text if prompt.messages else prompt.prompt or prompt.text
        text = "".join(part.text for part in self.parts if part.type == "text")
        return Completion(
            said or "",
            text,
            tuple(self.ids),
            self.finish,
            self.parts,
            frozenset(self.forced),
            self.end_id,
        )

    def _turn_to(self, kind: str) -> list[tuple[str, str]]:
        last = self._parts[-1][0] if self._parts else "text"
        if kind == "python_output" and last != "python":
            return []  # the model answers a call that it did not make: that is no part
        rest = self.flush()
        self._kind = kind
        if kind != "text":
            self._parts.append((kind, []))
        return rest

    def _say(self, text: str) -> list[tuple[str, str]]:
        if not text:
            return []
        if not self._parts or self._parts[-1][0] != self._kind:
            self._parts.append((self._kind, []))
        self._parts[-1][1].append(text)
        return [(self._kind, text)]


@lru_cache(maxsize=256)
def _warn_once(said: str) -> None:
    logger.warning(said)  # what evaluates as it trains asks the same again and again


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that a stop string begins with, but is not all of."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
