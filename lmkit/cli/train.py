"""lmkit train: run an experiment's stages, or go on where they stopped."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lmkit.cli.importing import importing
from lmkit.errors import ConfigError

if TYPE_CHECKING:
    from lmkit.config import Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_experiment(parser)
    parser.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="KEY",
        help="go on although this key (globs count) differs from what the run began with",
    )
    parser.add_argument(
        "--profile",
        type=int,
        metavar="N",
        help="watch N steps after the first three: a trace and a table, in the run's profile/",
    )


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Add the YAML and what is set over its values."""
    parser.add_argument("experiment", help="the YAML file")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="e.g. stages.pretrain.steps=50 seed=2",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="the same, as an option"
    )


def load(arguments: argparse.Namespace) -> Experiment:
    """The experiment that `add_experiment`'s arguments mean; imports no torch."""
    from lmkit.config import load_experiment

    return load_experiment(arguments.experiment, [*arguments.overrides, *arguments.set])


def run(arguments: argparse.Namespace) -> int:
    """Train; structure errors are found before torch is imported."""
    if arguments.profile is not None and arguments.profile < 1:
        raise ConfigError(f"{arguments.profile} steps", hint="1 or more", at="--profile")
    experiment = load(arguments)

    with importing():
        from lmkit.train.runner import build_runner

    runner = build_runner(experiment)
    if not runner.fit(arguments.allow_change, arguments.profile or 0) and runner.world.is_main:
        print(
            f"{experiment.out} is finished: {runner.progress.step} steps. "
            "A longer horizon goes on with it, another name: begins anew."
        )
    return 0
