"""lmkit generate: write on from prompts, with a run's folder or a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from lmkit.cli.importing import importing
from lmkit.cli.precision import add_precision
from lmkit.cli.sampling import add_sampling, sampling_of
from lmkit.errors import ConfigError

if TYPE_CHECKING:
    from lmkit.prompts import Completion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("checkpoint", help="a run's folder, or one checkpoint's")
    parser.add_argument(
        "-p", "--prompt", action="append", default=[], help="may come several times; - reads stdin"
    )
    parser.add_argument("--samples", type=int, default=1, help="of each prompt, default 1")
    add_sampling(parser, max_new_tokens=128, temperature=0.8)
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_precision(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="write so many at once, the next as soon as one has ended; default: all",
    )
    parser.add_argument(
        "--lookup",
        type=int,
        nargs="?",
        const=8,
        default=0,
        metavar="N",
        help="with -t 0: guess up to N tokens, 8, ahead where a text repeats itself",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the step from token to token: a wait at first, then faster",
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="run the copy of your own modules that the checkpoint holds",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a line of JSON a text, and nothing else"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write each completion after its prompt; a single one as it comes."""
    with importing():
        from lmkit.inference.decode import check_options
        from lmkit.ranks.world import pick_device
        from lmkit.train.display import harmless
        from lmkit.train.loading import load_model

    sampling = sampling_of(arguments, arguments.seed)
    if arguments.samples < 1:
        raise ConfigError(f"{arguments.samples} samples", hint="1 or more", at="--samples")
    try:
        check_options(sampling, arguments.batch_size, arguments.lookup)
    except ConfigError as error:
        error.at = {"slots": "--batch-size", "lookup": "--lookup"}[error.key]
        raise
    prompts = [sys.stdin.read() if text == "-" else text for text in arguments.prompt or [""]]
    device, trusted = pick_device(arguments.device), arguments.trust_code
    model = load_model(arguments.checkpoint, device, trusted, precision=arguments.precision)
    samples, compile = arguments.samples, arguments.compile
    how = {"samples": samples, "lookup": arguments.lookup, "compile": compile}
    how["batch_size"] = arguments.batch_size
    if len(prompts) == samples == 1 and not arguments.json:
        print(harmless(prompts[0], sys.stdout), end="", flush=True)
        for _, piece in model.generate(prompts, sampling, stream=True, **how):
            print(harmless(piece, sys.stdout), end="", flush=True)
        print()
        return 0
    for completion in model.generate(prompts, sampling, **how):
        told = f"{completion.prompt}{completion.text}\n"
        print(_as_json(completion) if arguments.json else harmless(told, sys.stdout))
    return 0


def _as_json(completion: Completion) -> str:
    about = {"tokens": len(completion.ids), "finish": completion.finish}
    return json.dumps({"prompt": completion.prompt, "text": completion.text, **about})
