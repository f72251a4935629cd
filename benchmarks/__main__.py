"""__main__: `python -m benchmarks NAME`, the same as `lmkit bench NAME`; measures nothing."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks import BENCHMARKS
from benchmarks.machine import use_threads
from lmkit.errors import ConfigError, LMKitError, did_you_mean

PROGRAM = "python -m benchmarks"


def main(words: Sequence[str] | None = None) -> int:
    """Run what `words` ask for; an error is one line on stderr, and its exit code."""
    try:
        return run(sys.argv[1:] if words is None else words)
    except LMKitError as error:
        print("error:", error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run(words: Sequence[str], prog: str = PROGRAM) -> int:
    """Run the benchmark that `words` begin with, or all.

    Args:
        prog: what the program is called in its help and its errors.

    Returns:
        0, or 1 if a contestant failed.

    Raises:
        LMKitError: there is no such benchmark or option, or nothing could be measured.
    """
    name = next((word for word in words if not word.startswith("-")), None)
    if name is not None and name not in (*BENCHMARKS, "all"):
        hint = did_you_mean(name, BENCHMARKS) or f"there are {', '.join(BENCHMARKS)} and all"
        raise ConfigError(f"there is no benchmark {name!r}", hint=hint, at=prog)
    parser = _parser(name, prog)
    try:
        arguments = parser.parse_args(words)
    except SystemExit:  # argparse's way to end a help text
        return 0
    if arguments.name is None:
        parser.print_help()
        return 0
    for option in ("nanogpt", "nanochat"):
        folder = getattr(arguments, option)
        if folder and not Path(folder).is_dir():
            raise ConfigError(f"there is no folder {folder}", at=f"--{option}")
    use_threads(arguments.threads)
    if arguments.name == "all":
        return max(_one_of_all(each, words) for each in BENCHMARKS)
    return _run_one(arguments)


def _one_of_all(name: str, words: Sequence[str]) -> int:
    """One benchmark with the words given to `all`; its JSON lies in the folder that they name."""
    arguments = _parser(name, PROGRAM).parse_args([name, *(w for w in words if w != "all")])
    if arguments.json:
        arguments.json = str(Path(arguments.json) / f"{name}.json")
    print(f"\n=== {name}: {BENCHMARKS[name]}", flush=True)
    try:
        return _run_one(arguments)
    except LMKitError as error:  # the others may still be measured
        print("error:", error, file=sys.stderr)
        return error.exit_code


def _run_one(arguments: argparse.Namespace) -> int:
    if arguments.device == "cuda":
        import torch  # two seconds

        if not torch.cuda.is_available():
            raise ConfigError("this torch finds no GPU", hint="cpu is the default", at="--device")
    return int(importlib.import_module(f"benchmarks.{arguments.name}").run(arguments))


class _Parser(argparse.ArgumentParser):
    """argparse, with an error of one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, hint=f"see {self.prog} --help", at=self.prog)


def _parser(wanted: str | None, prog: str) -> argparse.ArgumentParser:
    """The parser, with all options of the benchmark that is wanted."""
    parser = _Parser(
        prog=prog,
        description="Measure lmkit, and its peers where they are given, by turns on this machine.",
        allow_abbrev=False,
    )
    names = parser.add_subparsers(dest="name", metavar="NAME")
    for name, summary in BENCHMARKS.items():
        described = summary[0].upper() + summary[1:] + "."
        each = names.add_parser(name, help=summary, description=described, allow_abbrev=False)
        _add_common(each, "a file for all that was measured")
        if name == wanted:
            importlib.import_module(f"benchmarks.{name}").add_arguments(each)
    every = names.add_parser("all", help="each of them in turn", allow_abbrev=False)
    _add_common(every, "a folder for all that was measured, a file a benchmark")
    return parser


def _add_common(parser: argparse.ArgumentParser, json: str) -> None:
    parser.add_argument("--smoke", action="store_true", help="try everything, tiny, in seconds")
    parser.add_argument("--json", metavar="FILE", help=json)
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--nanogpt", metavar="DIR", help="a checkout of nanoGPT: a contestant")
    parser.add_argument("--nanochat", metavar="DIR", help="a checkout of nanochat: a contestant")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (torch's choice)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")


if __name__ == "__main__":
    sys.exit(main())
