"""lmkit report: a run as a page: what it took, what each stage brought, what the model wrote."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lmkit.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("run", type=Path, help="a run's folder, such as runs/NAME")
    parser.add_argument(
        "--out", type=Path, help="the file to write, RUN/report.html by default; - for stdout"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="write Markdown, RUN/report.md by default"
    )
    parser.add_argument(
        "--dollars-per-hour", type=float, metavar="X", help="what the machine costs"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the report; one file, which needs nothing else."""
    price = arguments.dollars_per_hour
    if price is not None and not 0 <= price < 1e9:
        raise ConfigError(f"{price} is no price", at="--dollars-per-hour")

    from lmkit.checkpoints.durable import storage_errors
    from lmkit.lab.markdown import markdown
    from lmkit.lab.page import page
    from lmkit.lab.report import report
    from lmkit.lab.run_history import read_run

    document = report(read_run(arguments.run), price)
    text = markdown(document) if arguments.markdown else page(document)
    out = arguments.out or arguments.run / ("report.md" if arguments.markdown else "report.html")
    if str(out) == "-":
        sys.stdout.write(text)
        return 0
    with storage_errors(out):
        out.write_text(text, encoding="utf-8")
    print(out)
    return 0
