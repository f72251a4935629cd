"""cli: a small file a command. Parsing is light; what is heavy is imported inside the commands."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from lmkit import __version__
from lmkit.config.registry import add_search_folder
from lmkit.errors import LMKitError, PluginError

# name -> what `lmkit --help` says; each is a module here with `add_arguments` and `run`
COMMANDS = {
    "train": "train what a YAML describes, or go on with it",
    "generate": "write on from a prompt, with a checkpoint",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is the error's, 0 when there was none."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.addLevelName(logging.WARNING, "warning")
    add_search_folder(Path.cwd())  # a console script does not have it on its path
    module = importlib.import_module(f"lmkit.cli.{arguments.command}")
    try:
        return module.run(arguments)
    except LMKitError as error:
        if isinstance(error, PluginError) and error.traceback:
            print(error.traceback.rstrip(), file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lmkit", description="Train language models from one YAML file."
    )
    parser.add_argument("--version", action="version", version=f"lmkit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        importlib.import_module(f"lmkit.cli.{name}").add_arguments(command)
    return parser
