"""diagnosis: what is kept when a step is not finite, so that one can look into it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from lmkit.model import LMBase
from lmkit.text import Batch


def write_diagnosis(folder: Path, model: LMBase, batch: Batch, step: int) -> Path:
    """Write the batch (tokens and text) and where the first NaN or infinity stands.

    Args:
        folder: the run's folder; `not_finite_step_N/` is made in it.
        model: as it was before the step, with the gradients of it.
        batch: this rank's rows.

    Returns:
        the folder written: `batch.safetensors` and `report.json`.
    """
    place = folder / f"not_finite_step_{step}"
    place.mkdir(parents=True, exist_ok=True)
    tensors = {name: getattr(batch, name).contiguous() for name in ("inputs", "targets", "weights")}
    save_file(tensors, place / "batch.safetensors")
    parameters = list(model.named_parameters())
    report = {
        "step": step,
        "parameters_not_finite": [name for name, p in parameters if not _finite(p.detach())],
        "gradients_not_finite": [
            name for name, p in parameters if p.grad is not None and not _finite(p.grad)
        ],
        "rows": [model.need_tokenizer().decode(row.tolist()) for row in batch.inputs],
    }
    (place / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return place


def _finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
