"""A model that answers by rule, so that what an evaluation must find is known beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from lmkit.data.holdout import Split
from lmkit.evals import Problem, Task
from lmkit.model import LMBase
from lmkit.prompts import Completion, Message
from lmkit.text import Byte, chat

BYTE = Byte()
(END,) = chat.end_ids(BYTE)


class Rule(LMBase):
    """Knows what follows each question: texts, each with its probability.

    At the start of an answer the texts' first bytes have those probabilities; the answer then goes
    on to the end of its text, and ends unless the text ends with "...".
    """

    def __init__(self, knows: Mapping[str, Mapping[str, float]], max_len: int = 256) -> None:
        super().__init__(tokenizer=BYTE, max_len=max_len)
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.follows: dict[tuple[int, ...], dict[int, float]] = {}
        self.read: list[tuple[int, ...]] = []
        for question, answers in knows.items():
            asked = tuple(chat.ask(BYTE, (Message("user", question),)))
            for text, share in answers.items():
                said = [*text.encode()] + ([END] if not text.endswith("...") else [])
                for i, token in enumerate(said):
                    nexts = self.follows.setdefault((*asked, *said[:i]), {})
                    nexts[token] = nexts.get(token, 0.0) + share

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.full((*tokens.shape, 257), -30.0)
        for row, ids in enumerate(tokens.tolist()):
            self.read.append(tuple(ids))
            for length in range(1, len(ids) + 1):
                for token, share in self.follows.get(tuple(ids[:length]), {}).items():
                    logits[row, length - 1, token] = torch.tensor(share).log()
        return logits + self.anchor


class Quiz(Task):
    """Questions and what is right; in the training split they are asked louder."""

    max_new_tokens = 8

    def __init__(self, answers: Mapping[str, str], choices: Sequence[str] = ()) -> None:
        self.kind = "choice" if choices else "generative"
        self.answers = answers
        self.choices = tuple(choices)

    def problems(self, split: Split) -> list[Problem]:
        return [
            Problem(
                messages=(Message("user", question if split == "validation" else question + "!"),),
                answer=answer,
                choices=self.choices,
                correct=self.choices.index(answer) if self.choices else 0,
                at=f"quiz:{number}",
            )
            for number, (question, answer) in enumerate(self.answers.items(), start=1)
        ]

    def score(self, problem: Problem, completion: Completion) -> float:
        return float(completion.text == problem.answer)

    def fingerprint(self) -> str:
        return repr(self.answers)


@pytest.fixture
def rule() -> type[Rule]:
    return Rule


@pytest.fixture
def quiz() -> type[Quiz]:
    return Quiz
