"""A header says what safetensors finds, and nothing that the file does not hold.

What is refused is in tests/faults: test_inputs has one of each kind, test_fuzz many.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmkit.checkpoints.header import DTYPES, MOST_BYTES, Stored, read_header
from lmkit.checkpoints.weights import read_fitting, write_tensors
from lmkit.errors import CheckpointError


def test_every_dtype_and_tie_is_told(tmp_path: Path) -> None:
    named = {str(dtype): torch.zeros(2, 3).to(dtype) for dtype in DTYPES}
    named["again"] = named["torch.float32"]
    named["empty"], named["one"] = torch.zeros(3, 0), torch.tensor(1.0)
    write_tensors(tmp_path / "x", named)
    header = read_header(tmp_path / "x")
    assert header.ties == {"again": "torch.float32"}
    assert header.tensors == {
        name: Stored(tensor.dtype, tuple(tensor.shape)) for name, tensor in named.items()
    }


def test_what_is_written_here_is_within_the_bounds(tmp_path: Path) -> None:
    named = {f"blocks.{n}.attention.query.weight": torch.zeros(1) for n in range(1000)}
    write_tensors(tmp_path / "x", named)
    size = (tmp_path / "x").stat().st_size - 4 * len(named)
    assert MOST_BYTES / (size / len(named)) > 200_000  # tensors


def test_a_file_that_does_not_fit_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tensors(tmp_path / "x", {"weight": torch.zeros(5, 4), "bias": torch.zeros(5)})

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("its tensors were touched")

    monkeypatch.setattr("lmkit.checkpoints.weights.safe_open", refuse)
    with pytest.raises(CheckpointError, match=r"weight is \[5, 4\] there and \[3, 4\]"):
        read_fitting(torch.nn.Linear(4, 3), tmp_path / "x")
