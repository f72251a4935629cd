"""A process for test_ranks: starts ranks as torchrun does, by forking; torch is imported once.

Reads a JSON object a line: `{"start": {...}}` starts torchrun's agent in a child and answers its
process id, `{"wait": ID}` answers the agent's exit code. A rank's words and its exit code are in
the request's folder, as `said-ATTEMPT-RANK` and `code-ATTEMPT-RANK`; `pid-...` is there while it
runs. A killed rank has no code.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
import uuid
from importlib import import_module
from pathlib import Path
from typing import Any

import torch._dynamo  # DDP does, which takes a rank 1.5 seconds
import torch.utils.tensorboard  # noqa: F401
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lmkit.cli import main
from lmkit.train.runner import build_runner  # noqa: F401  (imported here, once for all ranks)


def work(request: dict[str, Any]) -> None:
    """One rank."""
    folder = Path(request["folder"])
    rank = os.environ["RANK"]
    os.chdir(request.get("folders", {}).get(rank, folder))
    start = f"{os.environ['TORCHELASTIC_RESTART_COUNT']}-{request.get('node', '')}{rank}"
    said = os.open(folder / f"said-{start}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    (folder / f"pid-{start}").write_text(str(os.getpid()))
    for name, value in request.get("patch", {}).items():
        module, _, attribute = name.rpartition(".")
        setattr(import_module(module), attribute, value)
    for each, environment in request.get("environments", {}).items():
        if each in (rank, "all"):
            os.environ.update(environment)
    words = request.get("words", {}).get(rank, [])
    try:
        code = main([*request["command"], *words])
    except Exception:  # as the interpreter would
        traceback.print_exc()
        code = 1
    (folder / f"code-{start}").write_text(str(code))
    sys.exit(code)


def agent(request: dict[str, Any]) -> int:
    """torchrun, without its command line."""
    os.environ.update(request.get("agent", {}))
    config = LaunchConfig(
        min_nodes=request.get("nodes", [1, 1])[0],
        max_nodes=request.get("nodes", [1, 1])[1],
        nproc_per_node=request["ranks"],
        run_id=request.get("id", uuid.uuid4().hex),
        rdzv_backend="c10d",
        rdzv_endpoint=request.get("endpoint", "127.0.0.1:0"),
        max_restarts=request.get("restarts", 0),
        monitor_interval=0.1,
        start_method="fork",
        local_addr="127.0.0.1",
    )
    try:
        elastic_launch(config, work)(request)
    except ChildFailedError:
        return 1
    return 0


def start(request: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        os.setsid()
        code = 70
        with contextlib.suppress(KeyboardInterrupt):
            # torchrun's own words: it tells every failure at length
            name = f"torchrun-{request.get('node', '')}"
            log = os.open(Path(request["folder"]) / name, os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = agent(request)
        os._exit(code)
    return child


if __name__ == "__main__":
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            answer = start(order["start"])
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        print(answer, flush=True)
