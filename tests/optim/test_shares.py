"""Work shared among ranks: nothing is lost or done twice, and real ranks agree to the bit."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.optim.shares import ranks, share_out

PROGRAM = Path(__file__).with_name("ranks.py")
SIZE = 3


@settings(max_examples=50)
@given(st.lists(st.integers(1, 1000), max_size=30), st.integers(1, 9))
def test_all_work_is_done_once_and_spread_evenly(costs: list[int], size: int) -> None:
    shares = share_out(costs, size)
    assert len(shares) == size
    assert sorted(i for share in shares for i in share) == list(range(len(costs)))
    loads = [sum(costs[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(costs, default=0)


def test_without_other_ranks_there_is_one() -> None:
    assert ranks() == (0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three real ranks have left behind."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), str(SIZE), str(folder)]
    subprocess.run(command, env=environment, check=True, timeout=120)
    return folder


def saved(folder: Path, name: object) -> dict[str, Any]:
    return torch.load(folder / f"{name}.pt", weights_only=False)


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ranks", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_muon_on_three_ranks_is_the_same_on_all_and_as_on_one(folder: Path) -> None:
    first = saved(folder, 0)
    for rank in range(1, SIZE):
        other = saved(folder, rank)
        for what in ("parameters", "state"):
            torch.testing.assert_close(other[what], first[what], atol=0, rtol=0)
    alone = program()
    parameters, optimizer = alone.make()
    for number in range(3):
        alone.step(parameters, optimizer, number)
    torch.testing.assert_close(first["parameters"], parameters, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first["state"], optimizer.state_dict()["state"])


def test_states_are_kept_by_their_owners_and_collected_whole(folder: Path) -> None:
    ranks = [saved(folder, f"own{rank}") for rank in range(SIZE)]
    alone = program()
    parameters, optimizers = alone.make_set()
    for number in range(3):
        alone.step_set(parameters, optimizers, number)
    for rank in ranks:
        torch.testing.assert_close(rank["parameters"], parameters, atol=1e-6, rtol=1e-5)
    keepers = [sum(kept) for kept in zip(*(rank["kept"] for rank in ranks), strict=True)]
    assert keepers == [1] * len(parameters)
    assert all(1 <= sum(rank["kept"]) < len(parameters) / 2 for rank in ranks)
    collected, tensors = ranks[0]["state"], optimizers.state_tensors()
    assert collected.meta == optimizers.state_meta()
    assert collected.tensors.keys() == tensors.keys()
    for key, tensor in collected.tensors.items():
        torch.testing.assert_close(tensor, tensors[key], atol=1e-6, rtol=1e-5)


def test_a_lost_rank_is_told(folder: Path) -> None:
    for rank in range(SIZE - 1):
        told = (folder / f"lost{rank}.txt").read_text(encoding="utf-8")
        assert told.startswith("lost another rank: ")
        assert told.endswith("the same command goes on from the last checkpoint")
        assert "gloo" not in told
        assert "\n" not in told
