"""evaluation: what a stage wants to know of its model, measured; says no when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from lmkit.config import Evaluate
from lmkit.evals.bits_per_byte import bits_per_byte
from lmkit.evals.suite import evaluate_task
from lmkit.inference import Sampling
from lmkit.model import LMBase
from lmkit.prompts import Message, Prompt
from lmkit.ranks.world import World
from lmkit.train.memory import MicroBatch
from lmkit.train.precision import Precision
from lmkit.train.stage_run import StageRun


def measure(
    model: LMBase,
    run: StageRun,
    world: World,
    precision: Precision,
    rows: int,
    meet: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Bits per byte on the held-out rows, and how the stage's tasks are done; all ranks take part.

    A task gives `<task>`, `<task>_stderr` and, if the model writes answers, `<task>_ended`.

    Args:
        rows: of held-out text that go through the model at once.
        meet: called where all ranks come together: before each of the measurements.
    """
    found: dict[str, float] = {}
    wishes = run.stage.evaluate
    batches = run.validation_batches(world, rows)
    with precision.autocast():
        if wishes.bits_per_byte and batches is not None:
            meet()
            found = asdict(bits_per_byte(model, batches, world.sum))
        for task in run.tasks:
            meet()
            result = evaluate_task(
                model,
                task,
                limit=wishes.problems,
                rank=world.rank,
                size=world.size,
                add=world.sum,
            )
            found |= {task.name: result.value, f"{task.name}_stderr": result.stderr}
            if result.ended is not None:
                found[f"{task.name}_ended"] = result.ended
    return found


def write_samples(model: LMBase, wishes: Evaluate, seed: int) -> list[tuple[str, str]]:
    """(prompt, what the model writes), as `lmkit generate` does by default: the likeliest words
    alone soon go in circles. All at once, or as many as the memory holds."""
    asked = [Prompt(messages=(Message("user", text),)) for text in wishes.questions]
    prompts = [*(Prompt(prompt=text) for text in wishes.samples), *asked]
    if not prompts:
        return []
    sampling = Sampling(temperature=0.8, top_k=50, max_new_tokens=wishes.max_new_tokens, seed=seed)
    at_once = MicroBatch(len(prompts), model.device)
    written = at_once.fit(
        lambda: model.generate(prompts, sampling, batch_size=at_once.rows), lambda: None
    )
    return [
        (completion.prompt + ("\n" if prompt.messages else ""), completion.transcript)
        for prompt, completion in zip(prompts, written, strict=True)
    ]
