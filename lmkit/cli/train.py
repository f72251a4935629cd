"""lmkit train: run an experiment's stages, or go on where they stopped."""

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
        "--allow-change",
        action="append",
        default=[],
        metavar="KEY",
        help="go on although this key (globs count) differs from what the run began with",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train; structure errors are found before torch is imported."""
    from lmkit.config import load_experiment

    experiment = load_experiment(arguments.experiment, [*arguments.overrides, *arguments.set])

    from lmkit.config import build

    runner = build(experiment.runner, experiment=experiment)
    if not runner.fit(arguments.allow_change) and runner.world.is_main:
        print(
            f"{experiment.out} is finished: {runner.progress.step} steps. "
            "A longer horizon goes on with it, another name: begins anew."
        )
    return 0
