"""lmkit bench: how fast lmkit is on this machine, beside its peers; from a source checkout only."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from lmkit.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes; each benchmark has its own."""
    parser.epilog = "`lmkit bench NAME --help` shows what a benchmark takes, `lmkit bench` them all"
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="NAME ...",
        help="a benchmark, or all, and its options",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `python -m benchmarks` here; 1 if a contestant failed.

    Raises:
        ConfigError: the benchmarks, which are not part of the package, are not there.
    """
    import lmkit

    root = Path(lmkit.__file__).parent.parent
    if not (root / "benchmarks" / "contest.py").is_file():
        raise ConfigError(
            "the benchmarks come with lmkit's source, and this is an installed package",
            hint="clone the source and pip install -e it",
            at="lmkit bench",
        )
    sys.path.insert(0, str(root))
    benchmarks = importlib.import_module("benchmarks.__main__")
    return int(benchmarks.run(arguments.words, prog="lmkit bench"))
