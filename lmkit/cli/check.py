"""lmkit check: what an experiment is and what it will take, before any of it is trained."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from dataclasses import asdict

from lmkit.cli.train import add_experiment, load
from lmkit.config.secrets import redact


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_experiment(parser)
    parser.add_argument(
        "--run", action="store_true", help="do one real micro-step (forward, backward) as well"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Work the experiment out and print it; a mistake in it is an error, as it is of `train`."""
    experiment = load(arguments)

    from lmkit.cli.check_report import report
    from lmkit.lab.preview import preview

    found = preview(experiment, run=arguments.run)
    if arguments.json:
        seconds = {stage.name: found.seconds(stage) for stage in found.stages}
        print(json.dumps(redact({**asdict(found), "seconds": seconds}), indent=2, allow_nan=False))
        return 0
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    words = [arguments.experiment, *arguments.overrides, *arguments.set]
    print(redact(report(found, colour=colour)))
    print(redact(f"\nNothing is wrong with it: lmkit train {shlex.join(words)}"))
    return 0
