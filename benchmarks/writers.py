"""writers: lmkit's models at a task of generation; prints and compares nothing.

Weights are new: what is written means nothing, and takes the same time. It goes the way that users
go, from text to text; a token's text is its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.generate import SEED, Task
from benchmarks.repeated import Repeated
from benchmarks.shapes import gpt, gpt2
from lmkit.inference import Rows, decode
from lmkit.inference.sampling import Sampling
from lmkit.model import LMBase
from lmkit.nn.packed import Weights, pack_for_inference
from lmkit.text import Tokenizer
from lmkit.train.loading import build_model

WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


class Numbers(Tokenizer):
    """Every token is written as its number; the last one is bos and eos."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bos = self.eos = size - 1
        self.special_tokens = {"<|bos|>": self.bos}

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The numbers in the text; all else has no tokens."""
        return [int(word) for word in re.findall(r"\d+", text)]

    def vocabulary(self) -> list[bytes]:
        """The number, and a space."""
        return [b"%d " % number for number in range(self.size)]


class Lmkit(Repeated):
    """`LMBase.generate` of all prompts at once.

    Args:
        architecture: gpt or gpt2.
        weights: fp32, bf16 or int8.
        compile: the step of one token, compiled.
        lookup: tokens that are guessed ahead from what was written before; 0: none.
        circles: let a token depend on the last one only, so that the text soon repeats itself.

    Raises:
        RuntimeError: an answer ended before its time.
    """

    def __init__(
        self,
        task: Task,
        weights: Weights,
        *,
        architecture: str = "gpt",
        compile: bool = False,
        lookup: int = 0,
        circles: bool = False,
    ) -> None:
        self.device = task.device
        self._model = make_model(task, architecture, circles)
        self.more = {"bytes": self._model.scaling_parameter_count() * WEIGHT_BYTES[weights]}
        pack_for_inference(self._model, weights)
        self._prompts = [" ".join(map(str, ids[1:])) for ids in task.prompts()]
        self._wanted = len(task.lengths) * task.new_tokens
        self._sampling = Sampling(max_new_tokens=task.new_tokens)
        self._options: dict[str, Any] = {"compile": compile, "lookup": lookup}
        self.work()

    def work(self) -> float:
        """The answers to all prompts; gives their tokens."""
        answers = self._model.generate(self._prompts, self._sampling, **self._options)
        written = sum(len(answer.ids) for answer in answers)
        if written != self._wanted:
            raise RuntimeError(f"{written} tokens were written, not {self._wanted}")
        return written


class Queue(Repeated):
    """Prompts whose answers are of very different lengths, some at a time.

    Args:
        answers: tokens of each answer.
        slots: that may be written at a time.
        continuous: a prompt that waits enters as soon as there is room; else the next `slots` of
            them begin when all have ended.
    """

    def __init__(
        self, task: Task, weights: Weights, answers: tuple[int, ...], slots: int, continuous: bool
    ) -> None:
        self.device = task.device
        self._task, self._answers, self._slots = task, answers, slots
        self._at_once = len(answers) if continuous else slots
        self._model = make_model(task, "gpt")
        pack_for_inference(self._model, weights)
        self._prompts = task.prompts()
        self.work()

    def work(self) -> float:
        """All prompts answered; gives the tokens of the answers."""
        starts = range(0, len(self._answers), self._at_once)
        return sum(self._answer(first) for first in starts)

    def _answer(self, first: int) -> int:
        """The next prompts, each up to its end; gives the tokens."""
        cut = slice(first, first + self._at_once)
        wanted, written = self._answers[cut], [0] * self._at_once
        rows = Rows(self._prompts[cut], self._task.new_tokens)
        with self._model.evaluating():
            for chosen in self._decode(rows):
                written[chosen.row] += 1
                if written[chosen.row] == wanted[chosen.row]:
                    rows.ended.add(chosen.row)
        return sum(written)

    def _decode(self, rows: Rows) -> Iterator[Any]:
        return decode(
            lambda tokens, cache: self._model.logits(tokens, cache=cache),
            rows,
            Sampling(max_new_tokens=self._task.new_tokens),
            max_len=self._model.max_len,
            vocab_size=self._task.shape.vocabulary,
            device=self.device,
            make_cache=self._model.make_cache,
            slots=self._slots,
        )


def make_model(task: Task, architecture: str, circles: bool = False) -> LMBase:
    """A model with new weights that never chooses to end."""
    torch.manual_seed(SEED)
    shape = task.shape
    if architecture == "gpt":
        spec = {**gpt(shape, task.head_dim), "zero_init": circles}
    else:
        spec = gpt2(shape)
    model = build_model(spec, Numbers(shape.vocabulary)).to(task.device).eval()
    with torch.no_grad():
        # its logit is 0, and of thousands of others one is larger
        dict(model.named_modules())["head"].weight[shape.vocabulary - 1] = 0
    return model
