"""peak: how many floating-point operations a second a device can do; knows no model and no run.

A step's share of it is the model's FLOP utilisation, MFU (Chowdhery et al. 2022, arXiv 2204.02311,
appendix B): of the operations that its forward and backward need, not of those that it makes.
A run's is of the peak in its own precision, measured or looked up once; `benchmarks.train`'s is of
bf16's in the same round, whatever a contestant computes in. The operations they count are the same.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from lmkit.train.precision import DTYPES

# TFLOP/s of dense products in bf16 (fp16 is as fast), fp32 without TF32, and fp8, by words of the
# name that the driver gives. From NVIDIA's data sheets of each, and for GeForce the white papers on
# Ampere GA102 and Ada; where those count zeros ("with sparsity"), half of it. All accumulate in
# fp32.
DATASHEETS: dict[str, tuple[float, float, float | None]] = {
    "A10": (125, 31.2, None),
    "A100": (312, 19.5, None),
    "RTX 3090": (71, 35.6, None),
    "RTX 4090": (165, 82.6, 330),
    "L4": (121, 30.3, 242),
    "L40S": (362, 91.6, 733),
    "H100": (989, 67, 1979),
    "H100 PCIe": (756, 51, 1513),
    "H100 NVL": (835, 60, 1671),
    "H200": (989, 67, 1979),
    "H200 NVL": (835, 60, 1671),
    "B200": (2250, 75, 4500),
}
OTHERS = {"MIG", "Laptop", "Max", "Ti", "D"}  # part of a GPU, or another one of nearly that name
COLUMNS = {"bf16": 0, "fp16": 0, "fp32": 1, "fp8": 2}

PROBE_SECONDS = 0.02
SHORT = 0.002  # seconds of a product that is too small for as many cores as there are


@dataclass(frozen=True)
class Peak:
    """What a device can do at most, in FLOP/s, and whether a data sheet says so or a probe."""

    flops: float
    source: str


def find_peak(device: torch.device, precision: str) -> Peak | None:
    """The peak of `device` in "bf16", "fp16", "fp32" or "fp8"; None where nobody knows it.

    A GPU's is looked up; a CPU's is measured with the threads that torch has now, which takes some
    30 ms.
    """
    if device.type == "cpu":
        return Peak(measured(device, DTYPES[precision]), "measured")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        exact = torch.get_float32_matmul_precision() == "highest"
        if (precision != "fp32" or exact) and (flops := of_datasheet(name, precision)):
            return Peak(flops, f"data sheet of {name}")
    return None


def full_speed(peak: Peak | None, flops_per_token: float, devices: int) -> float | None:
    """Tokens a second at the peak of all devices; None where that is not known."""
    if peak is None or not flops_per_token:
        return None
    return peak.flops * devices / flops_per_token


def of_datasheet(name: str, precision: str) -> float | None:
    """The FLOP/s of a GPU by its driver's name, such as "NVIDIA A100-SXM4-80GB"."""
    words = set(re.findall(r"\w+", name))
    known = [entry for entry in DATASHEETS if words >= set(entry.split())]
    if not known or words & OTHERS or precision not in COLUMNS:
        return None
    found = DATASHEETS[max(known, key=len)][COLUMNS[precision]]
    return None if found is None else found * 1e12


def measured(device: torch.device, dtype: torch.dtype) -> float:
    """The FLOP/s of a product of two square matrices: the best of several, none of them too short.

    In bf16 a thread of an AMD EPYC multiplies 512 rows at 390 GFLOP/s, 1024 at 355 and 2048 at
    325: what is counted is the size that lasts long enough, where training's products are too.
    """
    size, times = 512, list[float]()
    while sum(times) < PROBE_SECONDS:
        a = torch.ones(size, size, dtype=dtype, device=device)
        if not times:
            _seconds_of_product(a)  # the first one of a size may load a kernel
        seconds = _seconds_of_product(a)
        if seconds < SHORT:
            size, times = 2 * size, []
        else:
            times.append(seconds)
    return 2 * size**3 / min(times)


def _seconds_of_product(a: Tensor) -> float:
    _wait_for(a.device)
    started = time.perf_counter()
    torch.mm(a, a)
    _wait_for(a.device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
