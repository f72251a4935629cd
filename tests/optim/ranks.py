"""A program that test_shares starts: real ranks, each of which steps the same matrices.

`ranks.py SIZE FOLDER`: every rank saves what it has after three steps of Muon as FOLDER/RANK.pt,
and after three more with optimizers whose states are shared out as FOLDER/ownRANK.pt. Then the last
one dies without a word, and the others write what that leads to into FOLDER/lostRANK.txt. torch is
imported once, and the ranks are forks.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import Parameter

from lmkit.errors import DistributedError
from lmkit.optim.muon import Muon
from lmkit.optim.optimizers import OptimizerSet

SHAPES = [(8, 8), (8, 8), (24, 8), (8, 24), (8, 24), (5, 7)]
FEW = [(6, 4)]  # a group with fewer matrices than ranks


def make() -> tuple[list[Parameter], Muon]:
    torch.manual_seed(0)
    groups = [[Parameter(torch.randn(shape)) for shape in shapes] for shapes in (SHAPES, FEW)]
    parameters = [p for group in groups for p in group]
    named = [{"params": group} for group in groups] + [{"params": [Parameter(torch.ones(2, 2))]}]
    named[1]["dtype"] = "bfloat16"
    return parameters, Muon(named, lr=0.1, weight_decay=0.1, dtype="float32")


def step(parameters: list[Parameter], optimizer: Muon, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()


def make_set() -> tuple[list[Parameter], OptimizerSet]:
    parameters, _ = make()
    named = [(f"m{i}", p) for i, p in enumerate(parameters)]
    groups = {"some": named[:4], "rest": named[4:]}
    specs = [{"class": "lmkit.optim.Muon", "params": ["some"], "dtype": "float32"}]
    # AdaGrad makes its state before the first step, Adam a step count for each parameter
    specs += [{"class": "torch.optim.Adagrad", "params": ["m4"]}, {"class": "torch.optim.Adam"}]
    return parameters, OptimizerSet.build(groups, specs)


def step_set(parameters: list[Parameter], optimizers: OptimizerSet, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    optimizers.step(clip=1.0)


def own(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """What a rank has of optimizers that are shared out, and saved and loaded on the way."""
    parameters, optimizers = make_set()
    optimizers.share(rank, size)
    for number in range(2):
        step_set(parameters, optimizers, number)
    states = optimizers.collect(here=rank == 0)
    if rank == 0:
        torch.save((states.tensors, states.meta), folder / "states.pt")
    dist.barrier()
    again, others = make_set()
    others.share(rank, size)
    others.load(*torch.load(folder / "states.pt"))
    for p, q in zip(again, parameters, strict=True):
        p.data.copy_(q.data)
    step_set(again, others, 2)
    kept = {p for member in others.members for p in member.optimizer.state}
    return {
        "parameters": again,
        "state": others.collect(here=rank == 0),
        "kept": [p in kept for p in again],
    }


def run(rank: int, size: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    parameters, optimizer = make()
    for number in range(3):
        step(parameters, optimizer, number)
    state = optimizer.state_dict()["state"]
    torch.save({"parameters": parameters, "state": state}, folder / f"{rank}.pt")
    torch.save(own(rank, size, folder), folder / f"own{rank}.pt")
    dist.barrier()
    if rank < size - 1:
        try:
            step(parameters, optimizer, 3)
        except DistributedError as error:
            (folder / f"lost{rank}.txt").write_text(str(error), encoding="utf-8")


def main(size: int, folder: Path) -> int:
    children = []
    for rank in range(size):
        if (child := os.fork()) == 0:
            run(rank, size, folder)
            os._exit(0)  # a group with a lost rank would not close in peace
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
