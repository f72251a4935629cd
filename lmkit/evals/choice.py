"""choice: how likely a model finds each answer that a problem offers; writes nothing itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lmkit.errors import DataError, NumericError
from lmkit.evals.task import Problem
from lmkit.model import LMBase
from lmkit.text import chat
from lmkit.text.batch import Batch
from lmkit.text.samples import Sample
from lmkit.text.tokenizer import Tokenizer

MAX_LOGITS = 2**27  # held at once: half a GiB of float32


def letter_scores(model: LMBase, problems: Sequence[Problem]) -> list[list[float]]:
    """Of each problem the log-probability of each choice, a token each, as the answer's first.

    One look at the logits after the question, restricted to the choices' ids: a problem's
    probabilities add up to 1. Of a question longer than the context the end is read.

    Raises:
        DataError: a choice is not exactly one token, or two choices are the same one.
        NumericError: logits that are not finite.
    """
    model.check()
    tokenizer = model.need_tokenizer()
    letters = [_letter_ids(tokenizer, problem) for problem in problems]
    rows = [chat.ask(tokenizer, problem.messages)[-model.max_len :] for problem in problems]
    scores: list[list[float]] = []
    with torch.no_grad(), model.evaluating():
        for part in _parts([len(row) for row in rows], tokenizer.vocab_size):
            width = max(map(len, rows[part]))
            padded = [row + [tokenizer.eos] * (width - len(row)) for row in rows[part]]
            logits = model.logits(torch.tensor(padded, device=model.device))
            for index, (row, ids) in enumerate(zip(rows[part], letters[part], strict=True)):
                of_letters = logits[index, len(row) - 1, ids].float()
                scores.append(of_letters.log_softmax(dim=-1).tolist())
    return _finite(scores, problems)


def answer_scores(model: LMBase, problems: Sequence[Problem]) -> list[list[float]]:
    """Of each problem the mean log-probability of a token of each choice, said by the assistant.

    The mark that ends the turn is not counted: a model that never learned to end one may know the
    answer all the same. Of what is longer than the context the end is read.

    Raises:
        DataError: a choice is empty.
        NumericError: logits that are not finite.
    """
    model.check()
    tokenizer = model.need_tokenizer()
    samples = [
        _answered(tokenizer, problem, choice, model.max_len)
        for problem in problems
        for choice in problem.choices
    ]
    means: list[float] = []
    with torch.no_grad(), model.evaluating():
        for part in _parts([len(sample.ids) for sample in samples], tokenizer.vocab_size):
            batch = Batch.of(samples[part], tokenizer.eos, tokenizer.token_bytes).to(model.device)
            total = (model.log_probs(batch) * batch.weights).sum(dim=1)
            means += (total / batch.weights.sum(dim=1)).tolist()
    of_rows = iter(means)
    return _finite([[next(of_rows) for _ in each.choices] for each in problems], problems)


def _answered(tokenizer: Tokenizer, problem: Problem, choice: str, max_len: int) -> Sample:
    """The end of question and choice, max_len inputs at most; the choice is what is measured."""
    answer = tokenizer.encode(choice)
    if not answer:
        raise DataError("a choice is empty", at=problem.at or None)
    question = chat.ask(tokenizer, problem.messages)
    ids = np.array([*question, *answer], dtype=np.int32)
    mask = np.array([False] * len(question) + [True] * len(answer))
    start = max(0, len(ids) - max_len - 1)
    mask[start] = False  # nothing comes before it
    return Sample(ids[start:], mask[start:])


def _letter_ids(tokenizer: Tokenizer, problem: Problem) -> list[int]:
    ids = []
    for choice in problem.choices:
        of_choice = tokenizer.encode(choice)
        if len(of_choice) != 1:
            raise DataError(
                f"the choice {choice!r} is {len(of_choice)} tokens, not one as a letter is",
                hint="let the task's kind be 'choice'",
                at=problem.at or None,
            )
        ids += of_choice
    if len(set(ids)) < len(ids):
        raise DataError("two choices have the same letter", at=problem.at or None)
    return ids


def _parts(lengths: Sequence[int], vocab_size: int) -> Iterator[slice]:
    """The rows in turns, so that the logits of one turn can be held."""
    step = max(1, MAX_LOGITS // (max(lengths, default=1) * vocab_size))
    return (slice(start, start + step) for start in range(0, len(lengths), step))


def _finite(scores: list[list[float]], problems: Sequence[Problem]) -> list[list[float]]:
    for of_problem, problem in zip(scores, problems, strict=True):
        if not np.isfinite(of_problem).all():
            raise NumericError(
                "the logits of the choices are not finite",
                hint="the weights hold NaN or infinity, or a half-precision dtype overflows",
                at=problem.at or None,
            )
    return scores
