"""lmkit generate: write on from prompts, with a run's folder or a checkpoint."""

from __future__ import annotations

import argparse
import sys

from lmkit.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("checkpoint", help="a run's folder, or one checkpoint's")
    parser.add_argument(
        "-p", "--prompt", action="append", default=[], help="may come several times; - reads stdin"
    )
    parser.add_argument("-n", "--max-new-tokens", type=int, default=128, help="default 128")
    parser.add_argument(
        "-t", "--temperature", type=float, default=0.8, help="default 0.8; 0 takes the likeliest"
    )
    parser.add_argument(
        "--top-k", type=int, default=50, help="choose among the k likeliest, default 50"
    )
    parser.add_argument("--top-p", type=float, default=1.0, help="choose among the likeliest p")
    parser.add_argument(
        "--repetition-penalty", type=float, default=1.0, help="above 1 repeats less"
    )
    parser.add_argument("--stop", action="append", default=[], help="end before this text")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="run the copy of your own modules that the checkpoint holds",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write each completion after its prompt; a single one as it comes."""
    from lmkit.inference.sampling import Sampling
    from lmkit.train.loading import load_model
    from lmkit.train.world import pick_device

    try:
        sampling = Sampling(
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            repetition_penalty=arguments.repetition_penalty,
            max_new_tokens=arguments.max_new_tokens,
            stop=tuple(arguments.stop),
            seed=arguments.seed,
        )
    except ConfigError as error:
        error.at = f"--{error.key.replace('_', '-')}"
        raise
    prompts = [sys.stdin.read() if text == "-" else text for text in arguments.prompt or [""]]
    model = load_model(arguments.checkpoint, pick_device(arguments.device), arguments.trust_code)
    if len(prompts) == 1:
        print(prompts[0], end="", flush=True)
        for _, piece in model.generate(prompts, sampling, stream=True):
            print(piece, end="", flush=True)
        print()
        return 0
    for completion in model.generate(prompts, sampling):
        print(f"{completion.prompt}{completion.text}\n")
    return 0
