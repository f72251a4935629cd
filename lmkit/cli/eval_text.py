"""eval_text: the rows on which `lmkit eval` measures bits per byte; measures nothing itself."""

from __future__ import annotations

import os
from collections.abc import Iterator

from lmkit.checkpoints.checkpoint import Checkpoint
from lmkit.checkpoints.plugin_code import class_names, is_ours
from lmkit.config import Experiment, Stage, build
from lmkit.data import BatchStream, TextFiles, open_rows, prepare
from lmkit.data.stream import RowSource
from lmkit.errors import CheckpointError, DataError
from lmkit.model import LMBase
from lmkit.ranks.world import World
from lmkit.text import Batch


def rows_of_file(path: str, model: LMBase) -> tuple[RowSource, int]:
    """A whole text file in rows as long as the model's context, and how many there are."""
    tokenizer = model.need_tokenizer()
    store = prepare(TextFiles(path, holdout=0), tokenizer, "all", max_len=model.max_len)
    rows = open_rows(store, width=model.max_len, seed=0, tokenizer=tokenizer)
    return rows, rows.rows_per_epoch


def rows_of_stage(checkpoint: Checkpoint, model: LMBase, trust_code: bool) -> tuple[RowSource, int]:
    """The held-out rows that the checkpoint's stage was measured on, and how many of them were.

    Relative paths are looked up in the current folder: a checkpoint does not know where its YAML
    lay.

    Raises:
        CheckpointError: it names no data, or data that only the user's own code can read.
        DataError: the data is not here, or nothing of it is held out.
    """
    stage = _stage(checkpoint, trust_code)
    spec = stage.validation or stage.data
    source = build(spec, folder=os.getcwd())
    store = prepare(
        source,
        model.need_tokenizer(),
        "validation" if stage.validation is None else "all",
        include_prompts=stage.include_prompts,
        max_len=model.max_len,
    )
    if not store.token_count:
        hint = "name a text file: --bits-per-byte FILE"
        raise DataError(f"the stage {stage.name!r} holds out no text", hint=hint)
    rows = open_rows(
        store,
        width=model.max_len,
        seed=0,
        tokenizer=model.need_tokenizer(),
        isolate=stage.isolate_documents,
        pack=model.accepts_documents,
    )
    return rows, min(rows.rows_per_epoch, max(1, stage.evaluate.tokens // model.max_len))


def batches_of(rows: RowSource, count: int, batch: int, world: World) -> Iterator[Batch]:
    """This rank's share of the first `count` rows."""
    return BatchStream(
        rows,
        rows_per_batch=batch * world.size,
        last_row=count,
        rank=world.rank,
        size=world.size,
        prefetch=False,
    )


def _stage(checkpoint: Checkpoint, trust_code: bool) -> Stage:
    stages = checkpoint.experiment.get("stages", ())
    plain = next((each for each in stages if each.get("name") == checkpoint.stage), None)
    if plain is None:
        hint = "name a text file: --bits-per-byte FILE"
        raise CheckpointError(
            "it does not say what it was trained on", hint=hint, at=checkpoint.folder
        )
    for name in class_names([plain.get("data"), plain.get("validation")]):
        if not (is_ours(name) or trust_code):
            raise CheckpointError(
                f"its data is read by {name}, which is not lmkit's",
                hint="name a text file: --bits-per-byte FILE, or --trust-code",
                at=checkpoint.folder,
            )
    experiment = Experiment.from_dict(checkpoint.experiment)
    return next(stage for stage in experiment.stages if stage.name == checkpoint.stage)
