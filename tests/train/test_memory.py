"""A micro-batch fits into the memory there is, in this start or in the next one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmkit.errors import ConfigError, StorageError
from lmkit.train.memory import MicroBatch

CPU = torch.device("cpu")


def starts(note: Path, limit: int = 8) -> tuple[MicroBatch, bool]:
    """The micro-batch of a new start, and whether it is smaller than it would be."""
    micro_batch = MicroBatch(limit, CPU)
    micro_batch.choose(width=16, rows=8)
    return micro_batch, micro_batch.heed(note)


def run_out() -> None:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")


def undo() -> None:
    raise AssertionError("what other ranks wait for is not tried again")


def test_each_start_halves_what_the_one_before_left_down_to_one_row(tmp_path: Path) -> None:
    note = tmp_path / "rows-some"
    found = []
    for rows in (8, 4, 2):
        micro_batch, fewer = starts(note)
        found.append((micro_batch.rows, fewer))
        with pytest.raises(ConfigError, match=f"{rows} rows.*command goes on with {rows // 2}"):
            micro_batch.fit(run_out, undo, alone=False)
    assert found == [(8, False), (4, True), (2, True)]
    micro_batch, _ = starts(note)
    with pytest.raises(ConfigError, match="one row does not fit"):
        micro_batch.fit(run_out, undo, alone=False)
    assert [path.name for path in tmp_path.iterdir()] == ["rows-some"]


def test_a_note_is_a_limit_and_no_wish(tmp_path: Path) -> None:
    note = tmp_path / "rows-some"
    note.write_text("4\n")
    micro_batch, fewer = starts(note, limit=2)
    assert (micro_batch.rows, fewer) == (2, False)


def test_a_note_that_is_none_is_named(tmp_path: Path) -> None:
    note = tmp_path / "rows-some"
    note.write_text("many")
    with pytest.raises(ConfigError, match=r"rows-some: holds no number of rows; delete it"):
        starts(note)


def test_a_disk_that_refuses_the_note_is_named(tmp_path: Path) -> None:
    micro_batch, _ = starts(tmp_path / "gone" / "rows-some")
    with pytest.raises(StorageError, match="rows-some: cannot be written"):
        micro_batch.fit(run_out, undo, alone=False)


def test_where_the_number_is_not_to_change_the_user_changes_it() -> None:
    micro_batch = MicroBatch(8, CPU)
    with pytest.raises(ConfigError, match=r"go on with runner\.max_batch_size=4"):
        micro_batch.fit(run_out, undo, alone=False)
