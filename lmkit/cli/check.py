"""lmkit check: what an experiment is and what it will take, before any of it is trained."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("experiment", help="the YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="e.g. stages.pretrain.steps=50 seed=2"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="the same, as an option"
    )
    parser.add_argument(
        "--run", action="store_true", help="do one real micro-step (forward, backward) as well"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def run(arguments: argparse.Namespace) -> int:
    return 0
