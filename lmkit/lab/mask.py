"""mask: a stage's rows as text, cut where a document begins and where training does."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from lmkit.config import Experiment
from lmkit.errors import ConfigError, DataError, did_you_mean
from lmkit.lab.preview import make_model
from lmkit.lab.stage_preview import StageLook
from lmkit.lab.stand_in import with_tokenizer
from lmkit.text import Batch, Tokenizer
from lmkit.text.batch import PADDING
from lmkit.train.precision import Precision
from lmkit.train.runner import build_runner


@dataclass(frozen=True)
class Span:
    """Tokens that are all trained or all not, and all special or all not, as text."""

    text: str
    trained: bool
    special: bool


@dataclass(frozen=True)
class Document:
    """A document's part of a row."""

    spans: tuple[Span, ...]
    tokens: int
    trained: int


@dataclass(frozen=True)
class Row:
    """A row's documents, and how many tokens of padding follow them."""

    documents: tuple[Document, ...]
    padding: int


def first_rows(experiment: Experiment, stage: str | None, count: int) -> list[Row]:
    """The first rows that a stage trains on.

    Args:
        stage: its name; None: the first one.

    Raises:
        ConfigError: there is no such stage, or no rows before the model has written some.
        DataError: its data, or what the vocabulary is learned from, is not on this disk yet.
    """
    names = [each.name for each in experiment.stages]
    if stage is not None and stage not in names:
        hint = did_you_mean(stage, names) or f"there are {', '.join(names)}"
        raise ConfigError(f"there is no stage {stage!r}", hint=hint, at=experiment.file or None)
    learned = with_tokenizer(experiment)
    if learned.waits_for is not None:
        raise DataError(
            f"the vocabulary is learned from what is not on this disk yet: {learned.waits_for}",
            hint="`lmkit train` gets it",
            at=experiment.tokenizer.at,
        )
    runner, device = build_runner(experiment), torch.device("cpu")
    model, mode = make_model(experiment, runner, device)
    with tempfile.TemporaryDirectory(prefix="lmkit-") as cache:
        precision = Precision("fp32", device)
        look = StageLook(experiment, runner, model, mode, precision, Path(cache))
        batch = look.first_rows(names.index(stage) if stage else 0, count)
        return [row_of(batch, number, model.need_tokenizer()) for number in range(len(batch))]


def row_of(batch: Batch, number: int, tokenizer: Tokenizer) -> Row:
    """A row of a batch; a document ends where attention does, or else before each bos."""
    ids = [int(batch.inputs[number, 0]), *batch.targets[number].tolist()]
    trained = [False, *(batch.weights[number] != 0).tolist()]
    numbers = _document_numbers(batch, number, ids, trained, tokenizer)
    documents = []
    for document, places in groupby(range(len(ids)), key=numbers.__getitem__):
        if document != PADDING:
            some = list(places)
            documents.append(
                _document([ids[i] for i in some], [trained[i] for i in some], tokenizer)
            )
    return Row(tuple(documents), numbers.count(PADDING))


def _document_numbers(
    batch: Batch, number: int, ids: Sequence[int], trained: Sequence[bool], tokenizer: Tokenizer
) -> list[int]:
    """The document of each token of a row, PADDING behind the last one."""
    if batch.documents is not None:
        inside = batch.documents[number].tolist()
        # the last token is a target only: it belongs to the document that it is predicted in
        return [*inside, inside[-1]]
    stop = len(ids)
    while stop > 1 and ids[stop - 1] == tokenizer.eos and not trained[stop - 1]:
        stop -= 1
    found, document = [], 0
    for place, token in enumerate(ids[:stop]):
        # where bos is eos too, the last one ends its document
        document += 0 < place < stop - 1 and token == tokenizer.bos
        found.append(document)
    return found + [PADDING] * (len(ids) - stop)


def _document(ids: Sequence[int], trained: Sequence[bool], tokenizer: Tokenizer) -> Document:
    special = set(tokenizer.special_tokens.values())
    kinds = [(learned, token in special) for token, learned in zip(ids, trained, strict=True)]
    spans = [
        Span(tokenizer.decode(ids[place] for place in places), *kind)
        for kind, places in groupby(range(len(ids)), key=kinds.__getitem__)
    ]
    return Document(tuple(spans), len(ids), sum(trained))
