"""environment: what a run was made with, for whoever has to make it again; nothing secret.

Environment variables, the command line and git remotes stay out: tokens live there.
"""

from __future__ import annotations

import os
import platform
import resource
import socket
import subprocess
import sys
from functools import cache
from importlib import metadata
from typing import Any

import torch

import lmkit

PACKAGES = ("torch", "safetensors", "numpy", "tiktoken")
GIT_PATIENCE = 5.0  # seconds; `git status` reads a whole tree, on a network disk too


def describe_environment() -> dict[str, Any]:
    """Versions, machine, threads, the current folder's git commit, and the most memory that this
    process has held so far, as JSON can hold them."""
    return {
        "lmkit": lmkit.__version__,
        "python": platform.python_version(),
        "packages": dict(_versions()),
        "platform": platform.platform(),
        "hostname": socket.gethostname(),
        "device": _device(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "peak_memory": _peak_memory(),
        "git": _git(os.getcwd()),
    }


@cache
def _versions() -> dict[str, str]:
    """Read once: it takes some milliseconds, for which training would wait at every save."""
    return {name: metadata.version(name) for name in PACKAGES}


def _peak_memory() -> dict[str, int]:
    """Bytes, of the host and of the GPU that this process uses."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_initialized():
        peak["gpu"] = torch.cuda.max_memory_allocated()
    return peak


def _device() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"type": "cpu", "capability": torch.backends.cpu.get_cpu_capability()}
    return {"type": "cuda", "name": torch.cuda.get_device_name(), "cuda": torch.version.cuda}


@cache
def _git(folder: str) -> dict[str, Any] | None:
    """The commit `folder` is at and whether files differ from it; None outside a repository."""
    try:
        commit = _run_git(folder, "rev-parse", "HEAD")
        changes = _run_git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _run_git(folder: str, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", folder, *words],
        capture_output=True,
        text=True,
        timeout=GIT_PATIENCE,
        check=True,
    )
    return done.stdout.strip()
