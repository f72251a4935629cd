"""The peak is the right GPU's, or measured; and a step's share of it is logged, or nothing is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lmkit.model import Loss
from lmkit.train import peak
from lmkit.train.display import Display
from lmkit.train.metrics import FILE, Metrics
from lmkit.train.peak import find_peak, measured, of_datasheet

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "fp16", 312),
        ("NVIDIA A100-SXM4-40GB", "fp32", 19.5),
        ("NVIDIA A100-SXM4-40GB", "fp8", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA A10G", "bf16", None),
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H200", "fp8", 1979),
        ("NVIDIA GH200 480GB", "bf16", None),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA GeForce RTX 4090", "bf16", 165),
        ("NVIDIA GeForce RTX 4090 D", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA H200", "int4", None),
    ],
)
def test_data_sheets(name: str, precision: str, teraflops: float | None) -> None:
    flops = of_datasheet(name, precision)
    assert flops == (None if teraflops is None else teraflops * 1e12)


def test_a_gpu_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr("torch.get_float32_matmul_precision", lambda: "highest")
    found = find_peak(CUDA, "bf16")
    assert found is not None
    assert (found.flops, found.source) == (989e12, "data sheet of NVIDIA H200")
    assert find_peak(CUDA, "fp32").flops == 67e12
    monkeypatch.setattr("torch.get_float32_matmul_precision", lambda: "high")
    assert find_peak(CUDA, "fp32") is None  # TF32, of which the table tells nothing
    assert find_peak(CUDA, "bf16") == found
    assert find_peak(torch.device("mps"), "bf16") is None


def test_a_cpu_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of n x n is 2 n^3 operations; one that is over at once is tried larger."""
    now, sizes = [0.0], []

    def multiply(a: torch.Tensor, b: torch.Tensor) -> None:
        sizes.append(len(a))
        # 1 ms of overhead, then 1e12 a second; the very first one has to warm up
        now[0] += 2 * len(a) ** 3 / 1e12 + (0.001 if len(sizes) > 1 else 0.005)

    monkeypatch.setattr(peak.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch, "mm", multiply)
    best = measured(CPU, torch.bfloat16)
    assert sizes[:3] == [512, 512, 1024]
    assert set(sizes[3:]) == {1024}
    assert best == pytest.approx(2 * 1024**3 / (2 * 1024**3 / 1e12 + 0.001))
    monkeypatch.undo()
    found = find_peak(CPU, "fp32")
    assert found is not None
    assert found.source == "measured"
    assert 1e8 < found.flops < 1e15


def step(folder: Path, full_speed: float | None) -> dict[str, Any]:
    with Metrics(folder) as metrics:
        metrics.begin_stage("a", 1, full_speed=full_speed)
        metrics.step(1, Loss(torch.tensor(1.0), 1, 1), tokens=1000, seconds=0.5)
    return json.loads((folder / FILE).read_text())


def test_a_step_tells_its_share_where_the_peak_is_known(tmp_path: Path) -> None:
    assert step(tmp_path / "known", 8000.0)["mfu"] == 0.25
    assert "mfu" not in step(tmp_path / "unknown", None)


def test_the_line_shows_it_over_its_window() -> None:
    for full_speed, shown in [(4000.0, "2k tokens/s, mfu 50%, data"), (None, "2k tokens/s, data")]:
        out = io.StringIO()
        line = Display("a", 2, out=out, full_speed=full_speed)
        for seconds in (0.25, 0.75):
            line.pace(tokens=1000, seconds=seconds, waited=0.0)
            line.show(1.0, None)
        line.close()
        assert shown in out.getvalue()
