"""sampling: the options of `generate` and `chat` that say how the next token is chosen."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lmkit.errors import ConfigError

if TYPE_CHECKING:
    from lmkit.inference.sampling import Sampling


def add_sampling(
    parser: argparse.ArgumentParser, *, max_new_tokens: int, temperature: float
) -> None:
    """Add the options; the seed is the command's own."""
    parser.add_argument(
        "-n",
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        help=f"default {max_new_tokens}",
    )
    parser.add_argument(
        "-t",
        "--temperature",
        type=float,
        default=temperature,
        help=f"default {temperature}; 0 takes the likeliest",
    )
    parser.add_argument(
        "--top-k", type=int, default=50, help="choose among the k likeliest, default 50"
    )
    parser.add_argument("--top-p", type=float, default=1.0, help="choose among the likeliest p")
    parser.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        help="choose among those at least so many times as likely as the likeliest",
    )
    parser.add_argument(
        "--repetition-penalty", type=float, default=1.0, help="above 1 repeats less"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text"
    )
    parser.add_argument(
        "--stop-id", action="append", default=[], type=int, metavar="ID", help="end at this token"
    )


def sampling_of(arguments: argparse.Namespace, seed: int) -> Sampling:
    """What was asked for.

    Raises:
        ConfigError: a value out of its range; names the option.
    """
    from lmkit.inference.sampling import Sampling

    try:
        return Sampling(
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            min_p=arguments.min_p,
            repetition_penalty=arguments.repetition_penalty,
            max_new_tokens=arguments.max_new_tokens,
            stop=tuple(arguments.stop),
            stop_ids=tuple(arguments.stop_id),
            seed=seed,
        )
    except ConfigError as error:
        error.at = f"--{error.key.replace('_', '-').replace('stop-ids', 'stop-id')}"
        raise
