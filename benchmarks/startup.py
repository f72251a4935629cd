"""startup: seconds from a command to its first step, first token, or end.

    python -m benchmarks startup --nanogpt DIR

Every round is a new process, with the files that it reads in the page cache and the tokens that it
trains on made before. What Python and `import torch` take is measured beside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.contest import Contestant, Measure, compete
from benchmarks.entrants import choose
from benchmarks.shapes import SHAPES, Shape, experiment, gpt
from benchmarks.table import Report

ROOT = Path(__file__).parent.parent
MARK = "step 0:"  # what nanoGPT prints of its first evaluation
PROMPT = "def "


class Command:
    """An Entry: a command, from its start until it has written what is waited for, or to its end.

    Args:
        words: the command.
        until: it has got there when its output has something behind this; None: when it ends.
        folder: where it runs.
        variables: of its environment, beside those of this process.
    """

    def __init__(
        self,
        words: list[str],
        until: str | None = None,
        folder: str | None = None,
        variables: dict[str, str] | None = None,
    ) -> None:
        self._words, self._until = words, None if until is None else until.encode()
        self._folder = folder or str(ROOT)
        self._environment = {**os.environ, **(variables or {})}
        self.round(0)  # brings its files into the page cache, and makes what it keeps itself

    def round(self, seconds: float) -> Measure:
        """Once, whatever `seconds` are.

        Raises:
            RuntimeError: it failed, or never wrote what was waited for.
        """
        started = time.perf_counter()
        with subprocess.Popen(
            self._words,
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            written = b""
            while not self._is_there(written):
                piece = os.read(process.stdout.fileno(), 4096)
                if not piece:
                    break
                written += piece
            else:
                passed = time.perf_counter() - started
                process.kill()
                return Measure(1, passed)
            failed = process.wait() or self._until is not None
            passed = time.perf_counter() - started
        if failed:
            raise RuntimeError(f"{self._words}: {written.decode(errors='replace')[-2000:]}")
        return Measure(1, passed)

    def _is_there(self, written: bytes) -> bool:
        return self._until is not None and bool(written.partition(self._until)[2])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this benchmark takes."""
    parser.add_argument("--shape", choices=sorted(SHAPES), default="4x256")
    parser.add_argument("--contestants", metavar="WORDS", help="those whose names hold one of them")
    parser.add_argument("--rounds", type=int, default=7)


def run(arguments: argparse.Namespace) -> int:
    """Measure each command; print and write what was found."""
    if arguments.smoke:
        vars(arguments).update(shape="tiny", rounds=1)
    report = Report("startup", arguments)
    with tempfile.TemporaryDirectory(prefix="lmkit-benchmark-") as folder:
        contestants = choose(
            _contestants(SHAPES[arguments.shape], Path(folder), arguments), arguments.contestants
        )
        result = compete(
            contestants, rounds=arguments.rounds, seconds=0, unit="starts", machine=False
        )
        report.note("startup", result)
        for each in contestants:
            row = {"seconds": 1 / result.rate(each.name)}
            if "import torch" in result.measures:
                row["of import torch"] = 1 / result.ratio(each.name, "import torch")
            report.add(command=each.name, **row)
    return report.finish()


def _contestants(shape: Shape, folder: Path, arguments: argparse.Namespace) -> list[Contestant]:
    lmkit = [sys.executable, "-m", "lmkit"]
    cached = {"LMKIT_CACHE": str(folder / "cache")}
    train = [*lmkit, "train", str(_write_experiment(shape, folder, arguments.smoke))]
    generate = [*lmkit, "generate", str(_write_model(shape, folder)), "-p", PROMPT]
    commands: dict[str, dict[str, Any]] = {
        "python": {"words": [sys.executable, "-c", "pass"]},
        "import torch": {"words": [sys.executable, "-c", "import torch"]},
        "lmkit --help": {"words": [*lmkit, "--help"]},
        "lmkit train, first step": {"words": train, "variables": cached},
        "lmkit generate, first token": {"words": generate, "until": PROMPT},
    }
    if arguments.nanogpt:
        commands["nanoGPT, first evaluation"] = _nanogpt(shape, folder, arguments.nanogpt)
    return [Contestant(name, "benchmarks.startup.Command", of) for name, of in commands.items()]


def _write_experiment(shape: Shape, folder: Path, smoke: bool) -> Path:
    """A YAML that ends with its first step, eager."""
    table = experiment(
        shape, gpt(shape), steps=1000, compile=False, text=__file__ if smoke else None
    )
    table["runner"]["class"] = "benchmarks.first_step.FirstStep"
    table["out"] = str(folder / "run")
    file = folder / "experiment.yaml"
    file.write_text(json.dumps(table))  # JSON is YAML
    return file


def _write_model(shape: Shape, folder: Path) -> Path:
    """A folder with a new model, as training leaves it for inference."""
    from lmkit.text import Tiktoken
    from lmkit.train.loading import build_model, save_for_inference

    tokenizer = Tiktoken(shape.tokenizer)
    model = build_model({**gpt(shape), "vocab_size": None}, tokenizer)
    return save_for_inference(model, folder / "model", {})


def _nanogpt(shape: Shape, folder: Path, checkout: str) -> dict[str, Any]:
    """Its train.py on tokens that mean nothing, to the first evaluation, which is before the first
    step; of one batch."""
    import numpy as np

    place = folder / "nanogpt"
    (place / "data" / "tokens").mkdir(parents=True)
    for name in ("train", "val"):
        np.zeros(10 * shape.context, np.uint16).tofile(place / "data" / "tokens" / f"{name}.bin")
    (place / "configurator.py").symlink_to(Path(checkout).resolve() / "configurator.py")
    settings = {
        "dataset": "tokens",
        "device": "cpu",
        "compile": False,
        "dtype": "float32",
        "n_layer": shape.layers,
        "n_embd": shape.width,
        "n_head": shape.width // 64,
        "block_size": shape.context,
        "batch_size": shape.batch_rows,
        "gradient_accumulation_steps": 1,
        "eval_iters": 1,
    }
    words = [sys.executable, "-u", str(Path(checkout).resolve() / "train.py")]
    words += [f"--{key}={value}" for key, value in settings.items()]
    return {"words": words, "until": MARK, "folder": str(place)}
