"""A program that test_strategies starts: `lmkit` on several ranks, one command after the other.

`many_ranks.py` reads JSON lines, [ranks, [words of a command line]], and answers each with the exit
codes of its ranks. torch is imported once, and the ranks are forks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback

# all that a run imports, so that no rank has to
import tensorboard.compat.proto.event_pb2  # noqa: F401
import tensorboard.summary.writer.record_writer  # noqa: F401
import torch._dynamo  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
import torch.distributed.tensor  # noqa: F401

import lmkit.cli
import lmkit.cli.train
import lmkit.train.runner  # noqa: F401

LIMIT = 240  # seconds: ranks that wait for each other for ever end


def run(ranks: int, words: list[str]) -> list[int]:
    """The exit codes of one run's ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    children = []
    for rank in range(ranks):
        if (child := os.fork()) == 0:
            os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
            os.dup2(2, 1)  # what a run prints is for people
            signal.alarm(LIMIT)
            try:
                code = lmkit.cli.main(words)
            except BaseException:  # this copy of the program must not go on
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), flush=True)
