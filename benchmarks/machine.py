"""machine: what this machine is, and what it can do at this moment; knows no benchmark.

Absolute figures of a shared machine move by tens of percent: a rate is worth something beside that
of a plain matrix product and a plain read of memory in the same minute.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROBE_SECONDS = 0.15
GEMM_SIZE = {"cpu": 1536, "cuda": 8192}  # large enough for the peak, small enough for the time
PEAK_READ = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.0e12}  # bytes/s, of those of 80 GB or more
READ_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}  # far beyond the caches


class Probe:
    """Times a matrix product and a read of memory.

    `measure` gives `bf16` and `fp32` (FLOP/s of a square product) and `read` (bytes/s of a sum):
    the best of some tries in 0.15 s each.
    """

    def __init__(self, device: str = "cpu") -> None:
        import torch

        self._device = torch.device(device)
        kind = self._device.type
        size = GEMM_SIZE[kind]
        self._flops = 2 * size**3
        self._square = torch.randn(size, size, device=device)
        self._half = self._square.bfloat16()
        self._bytes = torch.ones(READ_BYTES[kind] // 4, device=device)

    def measure(self) -> dict[str, float]:
        """The rates now, by name."""
        import torch

        size = self._bytes.numel() * self._bytes.element_size()
        return {
            "bf16": self._flops / self._best(lambda: torch.mm(self._half, self._half)),
            "fp32": self._flops / self._best(lambda: torch.mm(self._square, self._square)),
            "read": size / self._best(self._bytes.sum),
        }

    def _best(self, work: Callable[[], object]) -> float:
        """Seconds of the fastest of some tries."""
        work()  # the first one allocates
        synchronize(self._device.type)
        best = float("inf")
        end = time.perf_counter() + PROBE_SECONDS
        while time.perf_counter() < end or best == float("inf"):
            started = time.perf_counter()
            work()
            synchronize(self._device.type)
            best = min(best, time.perf_counter() - started)
        return best


def synchronize(device: str) -> None:
    """Wait until the device has done all it was told; a CPU always has."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def peak_flops(device: str) -> float | None:
    """FLOP/s in bf16 that the GPU's maker states; None for a CPU or one that is not known."""
    if not device.startswith("cuda"):
        return None
    import torch

    from lmkit.train.peak import of_datasheet

    return of_datasheet(torch.cuda.get_device_name(device), "bf16")


def peak_read(device: str) -> float | None:
    """Bytes/s of a GPU's memory that its maker states; None for a CPU or one not known here."""
    if not device.startswith("cuda"):
        return None
    import torch

    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAK_READ.items() if known in name), None)


def rest(device: str) -> None:
    """Give back the memory of a GPU that no tensor holds: the next contestant may need it."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def use_threads(threads: int | None) -> None:
    """Let this process and those that it starts compute with so many threads; None: torch's own
    choice, the number of cores."""
    if threads is None:
        return
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def describe(device: str = "cpu") -> dict[str, Any]:
    """The machine and the software, for the record."""
    import torch

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "commit": _commit(),
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _commit() -> str:
    """The source's commit, with a + where files differ from it; empty outside of git."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
