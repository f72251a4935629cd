"""allocator: keep freed memory for the next step instead of giving it back to the kernel."""

from __future__ import annotations

import ctypes
import sys

# glibc's <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks; nothing happens where there is no glibc.

    By default every tensor of some MB is mapped anew at each step, and each of its pages faults:
    82,000 faults a step of a 4-layer, 256-wide transformer, which went from 10.1k to 14.1k tokens/s
    without them (2 threads). The process then keeps the most memory it ever needed.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
