"""lmkit eval: what a checkpoint can do: tasks that it is asked, a text that it predicts."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lmkit.cli.importing import importing
from lmkit.cli.precision import add_precision
from lmkit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from lmkit.checkpoints.checkpoint import Checkpoint
    from lmkit.cli.eval_report import Asked
    from lmkit.config import Spec
    from lmkit.data.stream import RowSource
    from lmkit.evals import Task
    from lmkit.evals.core import CoreResult
    from lmkit.model import LMBase
    from lmkit.ranks.world import World


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("checkpoint", help="a run's folder, or one checkpoint's")
    parser.add_argument(
        "--tasks",
        default="",
        help="with commas between them: gsm8k, my_tasks.Mine, {class: arithmetic, digits: 3}",
    )
    parser.add_argument(
        "--bits-per-byte",
        metavar="FILE",
        nargs="?",
        const="",
        help="measure how well it predicts a text file; without one: what its stage held out",
    )
    parser.add_argument(
        "--core",
        metavar="FOLDER",
        nargs="?",
        const="",
        help="measure CORE, 22 tasks for models of text; without a folder the bundle is fetched",
    )
    parser.add_argument("--limit", type=_count, help="ask the first so many problems; default all")
    parser.add_argument(
        "--split", choices=("validation", "train", "all"), default="validation", help="of problems"
    )
    parser.add_argument(
        "--samples", type=_count, default=1, help="answers a problem, for pass@k; default 1"
    )
    parser.add_argument(
        "-t", "--temperature", type=float, help="default 0, the likeliest; of several samples 1.0"
    )
    parser.add_argument(
        "-n", "--max-new-tokens", type=_count, help="of an answer; default: what the task says"
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--batch", type=_count, default=32, help="rows at once, default 32")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_precision(parser, default=None)
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="run the copy of your own modules that the checkpoint holds",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, as the model's training does if nothing else is asked for; print a table or JSON."""
    if not arguments.tasks and arguments.bits_per_byte is None and arguments.core is None:
        hint = "name tasks, such as --tasks arithmetic, or a text with --bits-per-byte"
        raise ConfigError("there is nothing to measure", hint=hint, at="lmkit eval")

    with importing():
        from lmkit.checkpoints.contents import MODEL
        from lmkit.cli.eval_report import Measured
        from lmkit.cli.eval_text import batches_of
        from lmkit.evals import bits_per_byte
        from lmkit.evals.core_bundle import fetched_bundle
        from lmkit.evals.task import read_problems
        from lmkit.ranks.world import World
        from lmkit.train.loading import computes_in, find_checkpoint, load_model
        from lmkit.train.precision import Precision

    tasks = open_tasks(arguments.tasks)
    for task in tasks:  # before the ranks connect: no collective waits for a download
        read_problems(task, arguments.split)
    core = fetched_bundle() if arguments.core == "" else arguments.core
    world = World.from_environment(arguments.device)
    checkpoint = find_checkpoint(arguments.checkpoint, for_inference=True)
    asked, trusted = arguments.precision, arguments.trust_code
    model = load_model(checkpoint, world.device, trusted, precision=asked)
    if asked is None:  # a folder written for inference does not say
        precision = checkpoint.state.get("precision", {}).get("name", "fp32")
    else:
        precision = computes_in(asked, world.device)
    about = (str(checkpoint.folder), checkpoint.step, checkpoint.stage)
    found = Measured(*about, "int8" if asked == "int8" else precision, arguments.split)
    text = _text(checkpoint, model, arguments)
    with ExitStack() as stack:
        weights = checkpoint.manifest.files[MODEL].sha256
        stack.enter_context(world.connected({"the checkpoint": weights}))
        stack.enter_context(Precision(precision, world.device).autocast())
        found.asked = [_ask(model, task, arguments, world) for task in tasks]
        if core is not None:
            found.core = _core(model, core, arguments, world)
        if text is not None:
            batches = batches_of(*text, arguments.batch, world)
            found.text = bits_per_byte(model, batches, world.sum)
    if world.is_main:
        print(found.as_json() if arguments.json else found.as_table())
    return 0


def open_tasks(text: str) -> list[Task]:
    """The tasks that `--tasks` names.

    Raises:
        ConfigError: a name is unknown, an argument is wrong, or a class is no Task.
    """
    from lmkit.config import Place, Spec
    from lmkit.config.loader import read_value
    from lmkit.evals.task import open_task

    at = Place("--tasks")
    return [open_task(_full_name(Spec.of(value, at))) for value in read_value(f"[{text}]", at)]


def _full_name(spec: Spec) -> Spec:
    """A task's spec under its class's name; a dotted name, or one that a plug-in gave, stays."""
    from lmkit.config import Spec, resolve
    from lmkit.tasks import TASKS

    if spec.path in TASKS:
        return Spec(TASKS[spec.path], spec.args, spec.at, spec.places)
    if "." not in spec.path:
        try:
            resolve(spec.path)
        except ConfigError:
            hint = did_you_mean(spec.path, TASKS) or f"there are {', '.join(TASKS)}"
            said = f"there is no task {spec.path!r}"
            raise ConfigError(said, hint=hint, at=spec.at) from None
    return spec


def _ask(model: LMBase, task: Task, arguments: argparse.Namespace, world: World) -> Asked:
    from tqdm import tqdm

    from lmkit.cli.eval_report import Asked
    from lmkit.evals import evaluate_task
    from lmkit.inference import Sampling

    samples = arguments.samples if task.kind == "generative" else 1
    temperature = arguments.temperature
    try:
        sampling = Sampling(
            temperature=float(samples > 1) if temperature is None else temperature,
            max_new_tokens=arguments.max_new_tokens or task.max_new_tokens,
            seed=arguments.seed,
        )
        started = time.perf_counter()
        # on a terminal only; it counts the problems of this rank
        with tqdm(desc=task.name, unit="problem", disable=None if world.is_main else True) as bar:
            result = evaluate_task(
                model,
                task,
                split=arguments.split,
                limit=arguments.limit,
                rank=world.rank,
                size=world.size,
                add=world.sum,
                sampling=sampling,
                samples=samples,
                batch=arguments.batch,
                progress=bar.update,
            )
    except ConfigError as error:
        error.at = error.at or (f"--{error.key.replace('_', '-')}" if error.key else None)
        raise
    return Asked(result, time.perf_counter() - started)


def _core(
    model: LMBase, folder: str | Path, arguments: argparse.Namespace, world: World
) -> CoreResult:
    from tqdm import tqdm

    from lmkit.evals.core import evaluate_core

    with tqdm(desc="CORE", unit="task", disable=None if world.is_main else True) as bar:
        return evaluate_core(
            model,
            folder,
            limit=arguments.limit,
            rank=world.rank,
            size=world.size,
            add=world.sum,
            progress=lambda result: bar.update(),
        )


def _text(
    checkpoint: Checkpoint, model: LMBase, arguments: argparse.Namespace
) -> tuple[RowSource, int] | None:
    """The rows to measure bits per byte on, and how many; None if that is not asked for."""
    from lmkit.cli.eval_text import rows_of_file, rows_of_stage

    if arguments.bits_per_byte is None:
        return None
    if arguments.bits_per_byte:
        return rows_of_file(arguments.bits_per_byte, model)
    return rows_of_stage(checkpoint, model, arguments.trust_code)


def _count(text: str) -> int:
    """A number that is 1 or more, for argparse."""
    number = int(text) if text.lstrip("-").isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"it must be 1 or more, not {text}")
    return number
