"""A program that test_recompute starts: two real ranks, each of which takes a step's gradient with
and without recomputing. `recomputing.py FOLDER` fails where they differ. The ranks are forks.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from lmkit.ranks.world import World
from lmkit.text import Batch
from lmkit.train.accumulate import LossModule, accumulate
from lmkit.train.precision import Precision
from lmkit.train.recompute import recompute_blocks
from lmkit.train.strategy import Strategy
from lmkit_models.gpt2 import GPT2

CPU = torch.device("cpu")


def gradients(rank: int, recompute: bool) -> list[Tensor]:
    torch.manual_seed(0)
    model = GPT2(vocab_size=50, embedding_dim=16, layers=2, heads=2, max_len=8, dropout=0.2)
    if recompute:
        recompute_blocks(model)
    torch.manual_seed(rank)
    ids = torch.randint(50, (3, 8))
    batch = Batch(ids, ids, torch.ones(3, 8), None, count=24, bytes=0)
    world = World(rank, 2, CPU)
    accumulate(
        Strategy(world).wrap(LossModule(model)),
        batch,
        micro_batch=2,  # the first one is not reduced
        world=world,
        precision=Precision("bf16", CPU),
        seed=3,
    )
    return [p.grad for p in model.parameters() if p.grad is not None]


def run(rank: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    plain, again = gradients(rank, False), gradients(rank, True)
    assert len(plain) > 20
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert any(p.abs().max() > 0 for p in plain)
    dist.barrier()


def main(folder: Path) -> int:
    children = []
    for rank in range(2):
        if (child := os.fork()) == 0:
            code = 1
            try:
                run(rank, folder)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
