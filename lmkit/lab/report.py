"""report: a run told in sections: what it took, what it brought, what it wrote; knows no HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from lmkit.checkpoints.best import LOWEST_IS_BEST
from lmkit.checkpoints.durable import readable
from lmkit.lab.curves import STDERR, charts, is_share, result_name, results
from lmkit.lab.document import (
    Block,
    Cell,
    Charts,
    Document,
    Listing,
    Samples,
    Section,
    Table,
    Tiles,
)
from lmkit.lab.run_history import RunHistory, Sample, StageHistory
from lmkit.train.display import readable_count, readable_time

HELD_OUT = ("data", "validation", "include_prompts")
SAMPLES = 6  # of one prompt
SURE = 2.0  # standard errors from which on a change counts


def report(run: RunHistory, dollars_per_hour: float | None = None) -> Document:
    """Tell a run.

    Args:
        dollars_per_hour: what the machine costs; without it no cost is told.
    """
    sections = [
        Section("At a glance", (_tiles(run, dollars_per_hour),)),
        Section("Stages", (_stages(run, dollars_per_hour), *_remarks(run))),
        Section("Evaluation", tuple(_evaluations(run))),
        Section("Curves", (Charts(tuple(charts(run))),)),
        Section("Samples", tuple(_samples(run)) or ("No samples were written.",)),
        Section("Memory and throughput", (_machine(run),)),
        Section("Environment", (_environment(run),)),
        Section("Experiment", (_experiment(run),)),
    ]
    return Document(run.name, _summary(run), tuple(sections))


def _summary(run: RunHistory) -> str:
    model = str(run.experiment.get("model", {}).get("class", "")).rpartition(".")[2]
    steps = sum(stage.steps for stage in run.stages)
    return f"{model}, {steps:,} steps: {' → '.join(stage.name for stage in run.stages)}"


def _tiles(run: RunHistory, dollars_per_hour: float | None) -> Tiles:
    pace = run.tokens / run.seconds if run.seconds else 0.0
    tiles = {
        "parameters": readable_count(run.parameters) if run.parameters else "",
        "tokens": readable_count(run.tokens),
        "training time": readable_time(run.seconds),
        "tokens per second": readable_count(pace),
        "cost": _cost(run.seconds + run.evaluating, dollars_per_hour),
    }
    for stage in run.stages[:1]:  # later ones are mostly measured on other text
        tiles[f"bits per byte, {stage.name}"] = _number(stage.measured("bits_per_byte"))
    return Tiles(tuple((name, value) for name, value in tiles.items() if value))


def _cost(seconds: float, dollars_per_hour: float | None) -> str:
    if dollars_per_hour is None:
        return ""
    cost = seconds / 3600 * dollars_per_hour
    return f"${cost:,.2f}" if cost >= 1 else f"${cost:.3f}"


def _stages(run: RunHistory, dollars_per_hour: float | None) -> Table:
    head = [
        *("stage", "steps", "tokens", "time", "evaluation"),
        *("tokens/s", "loss", "bits/byte", "held-out"),
    ]
    rows = [
        [
            stage.name,
            f"{stage.steps:,}",
            readable_count(stage.tokens),
            readable_time(stage.seconds),
            readable_time(stage.evaluating),
            readable_count(stage.tokens / stage.seconds) if stage.seconds else "",
            _number(None if stage.rewarded else stage.final("loss")),
            _number(None if stage.rewarded else stage.final("bits_per_byte")),
            _number(stage.measured("bits_per_byte")),
        ]
        for stage in run.stages
    ]
    begun = {stage.name for stage in run.stages}
    planned = [str(stage["name"]) for stage in run.experiment["stages"]]
    rows += [[name, "not begun", *[""] * 7] for name in planned if name not in begun]
    if len(run.stages) > 1:
        total = [f"{sum(stage.steps for stage in run.stages):,}", readable_count(run.tokens)]
        times = [readable_time(run.seconds), readable_time(run.evaluating)]
        rows.append(["all", *total, *times, *[""] * 4])
    if dollars_per_hour is not None:
        head.insert(5, "cost")
        seconds = [stage.seconds + stage.evaluating for stage in run.stages]
        costs = [_cost(each, dollars_per_hour) for each in seconds]
        costs += [""] * (len(rows) - len(costs))
        if len(run.stages) > 1:
            costs[-1] = _cost(run.seconds + run.evaluating, dollars_per_hour)
        for row, cost in zip(rows, costs, strict=True):
            row.insert(5, cost)
    return _table(head, rows)


def _remarks(run: RunHistory) -> Iterator[str]:
    yield (
        "Time is that of the steps, that of evaluations stands beside it; checkpoints come on top. "
        "Losses are means over the last ten steps."
    )
    for stage in run.stages:
        if stage.not_finite:
            yield f"{stage.name}: steps whose loss was not a finite number: {stage.not_finite:,}."


# --- evaluation -------------------------------------------------------------------------------


def _evaluations(run: RunHistory) -> Iterator[Block]:
    """The last evaluation of each stage, and what has changed since the one before."""
    stages = [stage for stage in run.stages if stage.evaluations]
    names = results(stages)
    if not names:
        yield "Nothing was evaluated."
        return
    rows = []
    for name in names:
        cells = [Cell(result_name(name))]
        before: StageHistory | None = None
        for stage in stages:
            cells.append(_measured(run, name, stage, before))
            before = stage if name in stage.evaluations else before
        rows.append(tuple(cells))
    yield Table(("", *(stage.name for stage in stages)), tuple(rows))
    yield (
        "The last evaluation of each stage; below it the change since the stage before, where both "
        "are measured on the same data."
    )
    if any(name + STDERR in stage.evaluations for stage in stages for name in names):
        yield f"± is one standard error; a change has colour if it is above {SURE:g} of them."


def _measured(run: RunHistory, name: str, stage: StageHistory, before: StageHistory | None) -> Cell:
    value = stage.measured(name)
    if value is None:
        return Cell("")
    error = stage.measured(name + STDERR)
    share = is_share(name, [stage])
    text = f"{100 * value:.1f} %" if share else f"{value:.4f}"
    if error is not None:
        text += f" ± {100 * error:.1f}" if share else f" ± {error:.4f}"
    old = before.measured(name) if before else None
    if before is None or old is None:
        return Cell(text)
    if name in LOWEST_IS_BEST and _held_out(run, stage) != _held_out(run, before):
        return Cell(text)
    change = value - old
    note = f"{100 * change:+.1f}" if share else f"{change:+.4f}"
    old_error = before.measured(name + STDERR)
    unsure = 0.0 if error is None or old_error is None else SURE * math.hypot(error, old_error)
    tone = ""
    if abs(change) > unsure and (share or name in LOWEST_IS_BEST):
        tone = "better" if (change < 0) == (name in LOWEST_IS_BEST) else "worse"
    return Cell(text, note, tone)


def _held_out(run: RunHistory, stage: StageHistory) -> list[Any]:
    """What decides which text a stage's loss is measured on."""
    planned = [each for each in run.experiment["stages"] if each["name"] == stage.name]
    return [[each.get(key) for key in HELD_OUT] for each in planned]


# --- samples, machine, experiment -------------------------------------------------------------


def _samples(run: RunHistory) -> Iterator[Samples]:
    """By prompt; of many the last ones of each stage, and some between."""
    by_prompt: dict[str, list[Sample]] = {}
    for stage in run.stages:
        for sample in stage.samples:
            by_prompt.setdefault(sample.prompt, []).append(sample)
    for prompt, samples in by_prompt.items():
        last = {sample.stage: index for index, sample in enumerate(samples)}
        spread = [round(i * (len(samples) - 1) / (SAMPLES - 1)) for i in range(SAMPLES)]
        kept = sorted({*last.values(), *spread} if len(samples) > SAMPLES else range(len(samples)))
        yield Samples(prompt, tuple(samples[index] for index in kept))


def _machine(run: RunHistory) -> Table:
    head = [
        "stage", "tokens/s", "waited for data", "micro-batch", "precision", "weights", "optimizers",
        "most memory so far",
    ]  # fmt: skip
    rows = []
    for stage in run.stages:
        saved = run.saved.get(stage.name)
        speed = readable_count(stage.tokens / stage.seconds) if stage.seconds else ""
        waited = f"{stage.waited / stage.seconds:.0%}" if stage.seconds else ""
        if saved is None:
            rows.append([stage.name, speed, waited, *[""] * 5])
            continue
        peak = saved.environment.get("peak_memory", {})
        rows.append(
            [
                stage.name,
                speed,
                waited,
                f"{saved.micro_batch} rows" if saved.micro_batch else "",
                saved.precision,
                readable(saved.weights),
                readable(saved.optimizers),
                ", ".join(f"{name} {readable(size)}" for name, size in peak.items()),
            ]
        )
    return _table(head, rows)


def _environment(run: RunHistory) -> Block:
    if not run.environment:
        return "No checkpoint is there yet, and with it no environment."
    flat = {key: value for key, value in run.environment.items() if key != "peak_memory"}
    rows = tuple((Cell(key), Cell(_plain(value))) for key, value in flat.items())
    return Table(("", ""), rows, words=True)


def _experiment(run: RunHistory) -> Listing:
    text = yaml.safe_dump(dict(run.experiment), sort_keys=False, allow_unicode=True, width=90)
    return Listing("Every key with its value", text)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(tuple(head), tuple(tuple(Cell(text) for text in row) for row in rows))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
