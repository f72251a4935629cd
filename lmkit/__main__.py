"""__main__: lmkit as a process of its own: the console script, `python -m lmkit`, `torchrun -m`."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn

from lmkit.cli import main


def run() -> NoReturn:
    """Run one command, and end the process with its exit code.

    One of several ranks leaves out the end of the interpreter. A thread of gloo frees the tensors
    of a collective a moment after that is done, for which it wants the interpreter's lock; were
    that ending just then, the process would be aborted with all its work done (torch 2.13: 21 of
    120 processes that leave at once after a collective; pytorch/pytorch#179291).
    """
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
