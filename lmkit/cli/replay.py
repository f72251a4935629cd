"""lmkit replay: a step that a run did not take, once more, and where its numbers go wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmkit.cli.importing import importing
from lmkit.errors import NumericError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("case", help="what was kept of the step, such as RUN/not_finite_step_12")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="run the copy of your own modules that the case holds",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what was, what is, and where; exit code 4 if a number is not finite again."""
    with importing():
        from lmkit.ranks.world import pick_device
        from lmkit.train.diagnosis import read_case
        from lmkit.train.replaying import replay

    case = read_case(Path(arguments.case))
    report, device = case.report, pick_device(arguments.device)
    first, end = report["rows_of_stage"]
    print(f"then: step {case.step}, {report['kind']}, {report['what']}")
    print(f"batch: {len(case.batch)} of the rows {first}..{end - 1} of stage {report['stage']}")
    done = replay(case, device, trust_code=arguments.trust_code)
    print(f"weights: {done.weights}")
    print(f"now, on {device}: loss {done.loss:.4g}")
    print(f"not finite: first {done.origin}" if done.origin else "every number is finite")
    return NumericError.exit_code if done.origin else 0
