"""actions: a command that is several, such as `lmkit tokenizer train`; knows none of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

# adds what the action takes, does it, and what the help says of it
Action = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], Any], str]


def add_actions(parser: argparse.ArgumentParser, actions: Mapping[str, Action]) -> None:
    """Add a subcommand an action; `work` of the arguments is then what does the one chosen."""
    subparsers = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (add, work, summary) in actions.items():
        described = summary[0].upper() + summary[1:] + "."
        action = subparsers.add_parser(
            name, help=summary, description=described, allow_abbrev=False
        )
        add(action)
        action.set_defaults(parser=action, work=work)
