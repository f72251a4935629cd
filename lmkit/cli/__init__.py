"""cli: a small file a command. Parsing is light; what is heavy is imported inside the commands."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, NoReturn

from lmkit import __version__
from lmkit.errors import ConfigError, LMKitError, PluginError, did_you_mean

if TYPE_CHECKING:
    from logging import LogRecord

# name -> what `lmkit --help` says; each is a module here with `add_arguments` and `run`, of the
# same name but for MODULES
COMMANDS = {
    "train": "train what a YAML describes, or go on with it",
    "check": "look a YAML through without training: sizes, steps, memory, time, a batch",
    "eval": "ask a checkpoint the problems of tasks: how many it solves, and how sure that is",
    "generate": "write on from a prompt, with a checkpoint",
    "chat": "talk with a checkpoint",
    "list": "list the models, sources, tasks, optimizers and so on that there are",
    "describe": "show what a class can be given",
    "data": "look at the rows of a stage, with what is trained painted",
    "report": "tell a run as one HTML page: curves, results by stage, samples, cost",
    "tokenizer": "learn a vocabulary, look at its pieces, compare several",
    "checkpoint": "list a run's checkpoints, verify, prune, compare two of them",
    "verify-resume": "prove on an experiment that a killed run ends as an undisturbed one",
    "replay": "run a step again that training refused, and find where its numbers go wrong",
    "bench": "measure the speed of lmkit on this machine, and of its peers beside it",
}
MODULES = {
    "list": "listing",  # a module `list` would hide the builtin in this one
    "verify-resume": "verify_resume",
}
BROKEN_PIPE = 128 + 13  # what a shell reports of a program that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is the error's, 0 when there was none.

    An error is one line on stderr. A traceback stands above it only where a user's own module
    fails, and alone where lmkit has a bug.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun started it
        from lmkit.ranks.parent import die_with_launcher

        die_with_launcher()
        # of a lost connection torch would show C++'s stack; which rank is lost is told in `_tell`
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # here, where a reader that is gone can still be caught
        return code
    except BrokenPipeError:
        # nobody reads any more, as in `lmkit generate ... | head`; nor shall the flush at exit fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        return _tell(error)


def _tell(error: Exception) -> int:
    """Print an error's line, of several ranks that of the first to fail; the exit code."""
    line: str | None = " ".join(line.strip() for line in str(error).splitlines())
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        # torchrun's, which comes as soon as one rank has ended
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        from lmkit.ranks.launch import fell

        end = fell(error, int(os.environ.get("RANK", "0")), size)
        error, line = end.error, end.line
    if not isinstance(error, LMKitError):
        raise error
    if line is not None:
        told = [f"error: {_redacted(line)}"]
        if isinstance(error, PluginError) and error.traceback:
            told.insert(0, _redacted(error.traceback.rstrip()))
        try:
            print(*told, sep="\n", file=sys.stderr)
        except OSError:  # the terminal is gone; nor shall the flush at exit fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return error.exit_code


def _run(words: list[str]) -> int:
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS) or f"there are {', '.join(COMMANDS)}"
        raise ConfigError(f"there is no command {command!r}", hint=hint, at="lmkit")
    parser = _parser(command)
    arguments = _parse(parser, words)
    if arguments is None:
        return 0
    if arguments.command is None:
        parser.print_help()
        return 0

    import logging

    from lmkit.config.registry import add_search_folder

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.addLevelName(logging.WARNING, "warning")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_redact_record)
    sys.excepthook = _show_bug
    here = Path.cwd()
    if not any(_is_checkpoint(folder) for folder in (here, *here.parents)):
        # a console script does not have it on its path; a checkpoint may be a stranger's
        add_search_folder(here)
    return _module(arguments.command).run(arguments)


def _is_checkpoint(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("manifest.json", "model.safetensors"))


def _redacted(text: str) -> str:
    from lmkit.config.secrets import redact  # with it comes YAML's parser, which --help needs not

    return redact(text)


def _redact_record(record: LogRecord) -> bool:
    """A filter that hides secrets in what is logged, and lets it pass."""
    record.msg, record.args = _redacted(record.getMessage()), ()
    return True


def _show_bug(kind: type[BaseException], error: BaseException, stack: TracebackType | None) -> None:
    """The traceback of what is no LMKitError, without secrets."""
    import traceback

    told = "".join(traceback.format_exception(kind, error, stack))
    print(_redacted(told), end="", file=sys.stderr)


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace | None:
    """The arguments; None if a help text or the version was all that was asked for."""
    try:
        arguments, left = parser.parse_known_args(words)
    except SystemExit:  # argparse's way to end a help text
        return None
    # argparse takes `*` arguments in one run only: those behind an option are left over
    later = [word for word in left if "=" in word and not word.startswith("-")]
    if hasattr(arguments, "overrides"):
        arguments.overrides = [*arguments.overrides, *later]
        left = [word for word in left if word not in later]
    if left:
        options = re.findall(r"--[\w-]+", arguments.parser.format_help())
        hint = did_you_mean(left[0].partition("=")[0], options) or "see --help"
        raise ConfigError(f"there is no {left[0]!r}", hint=hint, at=arguments.parser.prog)
    return arguments


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"lmkit.cli.{MODULES.get(command, command)}")


class _Parser(argparse.ArgumentParser):
    """argparse, with an error of one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, hint=f"see {self.prog} --help", at=self.prog)


def _parser(asked: str | None) -> argparse.ArgumentParser:
    """All commands by name, and the arguments of the one asked for: no other is imported."""
    parser = _Parser(
        prog="lmkit", description="Train language models from one YAML file.", allow_abbrev=False
    )
    parser.set_defaults(parser=parser)
    parser.add_argument("--version", action="version", version=f"lmkit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        described = summary[0].upper() + summary[1:] + "."
        command = commands.add_parser(name, help=summary, description=described, allow_abbrev=False)
        if name == asked:
            _module(name).add_arguments(command)
            command.set_defaults(parser=command)
    return parser
