"""precision: the option of `generate`, `chat` and `eval` that says what a model computes in."""

from __future__ import annotations

import argparse

PRECISIONS = ("auto", "bf16", "fp32", "int8")


def add_precision(parser: argparse.ArgumentParser, *, default: str | None = "auto") -> None:
    """Add the option; a default of None stands for what the model was trained in."""
    said = "what it was trained in" if default is None else default
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=default,
        help="of the weights and the arithmetic: bf16, fp32, auto (bf16 where this machine is "
        "faster in it), or int8 (weights of 8 bits: fastest on a CPU for a few rows at a time, "
        f"and not quite the same model); default {said}",
    )
