"""compiling: whether a stage's loss is compiled with torch.compile; the learner does it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from lmkit.errors import ConfigError

logger = logging.getLogger(__name__)

# FLOPs of a stage from which compiling is paid back. On CUDA some five minutes at 350 TFLOP/s. On a
# CPU the gain was 5 % and the first compilation took 40 s, 13 minutes of work at two threads and
# 150 GFLOP/s each; twice that, so that nobody waits in vain.
FROM_FLOPS_CUDA = 1e17
FROM_FLOPS_CPU_THREAD = 2.5e14
COMPILERS = {"cpu": ("c++", "g++", "clang++"), "cuda": ("cc", "gcc", "clang")}  # as torch looks


def pays_to_compile(policy: bool | Literal["auto"], device: torch.device, work: float) -> bool:
    """Whether to compile a stage of `work` FLOPs.

    Raises:
        ConfigError: it is asked for, and there is no compiler that torch.compile could use.
    """
    if policy is False or (policy == "auto" and work < _enough_work(device)):
        return False
    if has_compiler(device):
        return True
    said = f"torch.compile finds no compiler ({', '.join(COMPILERS[device.type])})"
    if policy == "auto":
        logger.warning("%s: not compiled, which is slower", said)
        return False
    raise ConfigError(said, hint="install one, name it in $CXX, or set compile: false")


def has_compiler(device: torch.device) -> bool:
    """Whether a compiler is installed that torch.compile needs for `device`."""
    if device.type not in COMPILERS:
        return True
    named = [os.environ[name] for name in ("CXX", "CC") if name in os.environ]
    return any(map(shutil.which, [*named, *COMPILERS[device.type]]))


@contextmanager
def compile_errors() -> Iterator[None]:
    """Tell in one line what torch.compile cannot do; ConfigError says how to go on without."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        said = " ".join(str(error).split("\n\n")[0].split())  # what follows is where and how
        raise ConfigError(
            f"torch.compile fails on this model: {said}", hint="runner.compile=false"
        ) from error


def _enough_work(device: torch.device) -> float:
    if device.type == "cuda":
        return FROM_FLOPS_CUDA
    if device.type == "cpu":
        return FROM_FLOPS_CPU_THREAD * torch.get_num_threads()
    return float("inf")
