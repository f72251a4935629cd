"""A trial in a child of this process: torch is imported once, and a trial takes milliseconds.

How long a child lives is told in processor time, so that a busy machine moves no kill.
"""

from __future__ import annotations

import gc
import os
import signal
import time
import traceback
from collections.abc import Callable

KILLED = -signal.SIGKILL


def in_child(
    work: Callable[[], int], lifetime: float | None = None, output: str = os.devnull
) -> int:
    """Fork, do the work there, kill the child when it has had so much processor time.

    Args:
        work: gives the exit code; an error that it lets through is code 99.
        lifetime: seconds; None lets it end.
        output: the file that its stdout and stderr go to.

    Returns:
        the exit code, or -signal.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    while lifetime is not None and processor_time(child) < lifetime:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break  # it was faster
        time.sleep(0.001)
    else:
        if lifetime is not None:
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def processor_time(process: int) -> float:
    """Seconds that a process has had so far; the number of its clock is what Linux makes of its
    id (clock_getcpuclockid)."""
    return time.clock_gettime(~process << 3 | 2)


def share_pages() -> None:
    """To be called when all is imported: what children only read they need not copy."""
    gc.collect()
    gc.freeze()
    gc.disable()
