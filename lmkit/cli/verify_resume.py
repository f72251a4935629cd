"""lmkit verify-resume: the proof, on your own experiment, that a killed run loses nothing."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lmkit.cli.importing import importing
from lmkit.cli.train import add_experiment
from lmkit.errors import ConfigError

if TYPE_CHECKING:
    from lmkit.lab.verify_resume import Verdict

SHOWN = 5  # differences of one kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_experiment(parser)
    parser.add_argument(
        "--steps", type=int, default=16, help="the longest that a stage may be (default 16)"
    )
    parser.add_argument(
        "--kills", type=int, default=6, help="SIGKILLs at random moments (default 6)"
    )
    parser.add_argument("--ranks", type=int, default=1, help="processes, by torchrun (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--folder", type=Path, help="keep both runs there; it must not exist or be empty"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train straight and killed, compare, print a table; 0 where nothing differs, else 1."""
    for name in ("steps", "kills", "ranks"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"{getattr(arguments, name)} is less than 1", at=f"--{name}")
    with importing():
        from lmkit.lab.verify_resume import verify_resume

    with ExitStack() as stack:
        folder = arguments.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lmkit-verify-")))
        elif folder.exists() and any(folder.iterdir()):
            raise ConfigError("is not empty", hint="both runs begin anew", at=folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
        verdict = verify_resume(
            arguments.experiment,
            [*arguments.overrides, *arguments.set],
            folder.absolute(),
            steps=arguments.steps,
            kills=arguments.kills,
            ranks=arguments.ranks,
            seed=arguments.seed,
        )
    print("\n".join(_tell(verdict, arguments.ranks)))
    return 0 if verdict.exact else 1


def _tell(verdict: Verdict, ranks: int) -> list[str]:
    """The table, and what it means."""
    moments = [f"{kill.step}{'*' if kill.starting else ''}" for kill in verdict.kills]
    lines = [
        f"{verdict.steps} steps on {ranks} rank{'s' * (ranks > 1)}, straight; and again with "
        f"{len(moments)} SIGKILLs, after steps {', '.join(moments) or 'none'}"
        + (" (* while it started again)" if any(kill.starting for kill in verdict.kills) else ""),
        "",
    ]
    width = max(len(each.what) for each in verdict.comparisons)
    room = max(len(each.amount) for each in verdict.comparisons)
    for each in verdict.comparisons:
        word = "equal" if each.equal else f"{len(each.differences)} DIFFER"
        lines.append(f"{each.what:<{width}}  {each.amount:<{room}}  {word}")
        lines += [f"    {difference}" for difference in each.differences[:SHOWN]]
        if len(each.differences) > SHOWN:
            lines.append(f"    and {len(each.differences) - SHOWN} more")
    lines.append("")
    if verdict.exact:
        lines.append("resume is exact: bit for bit what the undisturbed run gave")
    elif not verdict.kills:
        lines.append("nothing was proven: the run was over before a kill; more --steps")
    else:
        lines.append(
            "resume is NOT exact; where the same command twice differs too, set "
            "runner.deterministic=true, or look for random numbers in your own classes"
        )
    return lines
