"""benchmarks: how fast lmkit is, beside its peers; stands outside the package and is not installed.

    python -m benchmarks NAME [--nanogpt DIR] [--nanochat DIR] [--json FILE]

Contestants live in processes of their own and work by turns: see contest.
"""

from __future__ import annotations

# name -> what `python -m benchmarks --help` says; each is a module here with `add_arguments` and
# `run`, which import torch inside their functions
BENCHMARKS = {
    "train": "tokens a second and model FLOP utilisation in training",
    "loss": "held-out bits per byte after so many tokens, and the time to get there",
    "generate": "tokens a second in generation",
    "data": "batches a second from tokens on the disk",
    "tokenizer": "text to tokens on the disk, and text to a vocabulary",
    "checkpoint": "what saving costs the training loop, and how fast a model is loaded",
    "guards": "what saves and all that watches over a step take of a run",
    "startup": "from the command to its first step or token",
}
