"""generative: what a model writes when it is asked, and how often one of k answers is right."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from lmkit.evals.task import Problem
from lmkit.inference import Sampling
from lmkit.model import LMBase
from lmkit.prompts import Completion


def write_answers(
    model: LMBase,
    problems: Sequence[tuple[int, Problem]],
    sampling: Sampling,
    samples: int = 1,
) -> list[list[Completion]]:
    """`samples` answers to each (number, problem), all written at once.

    A draw depends on the sampling's seed, the problem's number and the sample's, and on nothing
    else: neither on the other problems of the batch nor on how many samples there are.
    """
    prompts = [problem.prompt for _, problem in problems]
    seeds = [
        _seed(sampling.seed, number, sample) for number, _ in problems for sample in range(samples)
    ]
    flat = model.generate(prompts, sampling, samples=samples, seeds=seeds)
    return [flat[start : start + samples] for start in range(0, len(flat), samples)]


def pass_at_k(right: int, samples: int, k: int) -> float:
    """The chance that one of k answers at least is right, when `right` of `samples` were.

    The unbiased estimate of Chen et al. (arXiv 2107.03374): k of the samples are taken at random.
    """
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def _seed(seed: int, number: int, sample: int) -> int:
    digest = hashlib.blake2b(f"{seed} {number} {sample}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little")
