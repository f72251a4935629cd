"""report: a preview as text for a terminal, in plain characters; works nothing out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from lmkit.checkpoints.durable import readable
from lmkit.lab.estimate import EFFICIENCY, Memory
from lmkit.lab.preview import Preview
from lmkit.lab.stage_preview import OptimizerPreview, Passage, StagePreview
from lmkit.train.display import readable_count, readable_time

LABEL = 12  # columns of the left margin
HEIGHT = 5  # lines of the rates' curve
SHOWN = 240  # characters of a row
LINE = 80  # characters of it a line
WIDEST = 110  # columns
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def report(preview: Preview, *, colour: bool = False) -> str:
    """Everything about the experiment; with `colour` the loss mask is shown by dimmed text."""
    untold = [preview.untold] if preview.untold else []
    lines = [
        *_entry("run", f"{preview.name}, into {preview.out}"),
        *_entry("device", f"{preview.device}, computing in {preview.precision}", *untold),
        *_model(preview),
    ]
    for stage in preview.stages:
        lines += ["", f"stage {stage.name}", *_stage(preview, stage, colour)]
    return "\n".join(lines)


def _model(preview: Preview) -> Iterator[str]:
    yield from _entry(
        "model",
        f"{preview.model}, {preview.max_len:,} tokens of context, {preview.vocabulary:,} entries",
        f"{preview.parameters:,} parameters",
    )
    for role, count in preview.parts.items():
        if count:
            yield from _entry("", f"{role:<18} {count:>15,} {count / preview.parameters:>7.1%}")
    if preview.learned_from is not None:
        yield from _entry("vocabulary", *_filled(f"learned from {preview.learned_from}"))
    if step := preview.micro_step:
        yield from _entry(
            "micro-step",
            f"loss {step.loss:.4f} nats a token, {readable_time(step.seconds)} for "
            f"{step.rows} rows ({readable_count(step.tokens / step.seconds)} tokens/s)",
        )


def _stage(preview: Preview, stage: StagePreview, colour: bool) -> Iterator[str]:
    yield from _entry("data", *_filled(stage.data), _data_size(stage))
    yield from _entry("length", _length(stage), *_why(stage, "tokens"))
    yield from _entry("step", *_step(stage), *_why(stage, "batch_tokens"))
    yield from _entry("optimizers", *(line for each in stage.optimizers for line in _rates(each)))
    yield from _entry("schedule", *plot(stage.schedule))
    yield from _entry("memory", *_memory(stage.memory))
    yield from _entry("time", *_time(preview, stage))
    if stage.rows:
        mark = "dim" if colour else "marked -"
        yield from _entry("batch", f"its first rows; what is not trained is {mark}")
        for row in stage.rows:
            yield from _entry("", "", *draw_row(row, colour))


def plot(values: Sequence[float]) -> list[str]:
    """A curve above its axis, HEIGHT lines high, from 0 to the greatest value."""
    top = max(*values, 1e-9) if len(values) > 1 else max(values[0], 1e-9)
    levels = [round(max(value, 0) / top * (HEIGHT - 1)) for value in values]
    names = {HEIGHT - 1: f"{top:.3g}", 0: "0"}
    return [
        f"{names.get(level, ''):>5} |"
        + "".join("*" if at == level else " " for at in levels).rstrip()
        for level in reversed(range(HEIGHT))
    ]


def draw_row(row: Sequence[Passage], colour: bool) -> list[str]:
    """The beginning of a row, line breaks written out, what is not trained dimmed or marked."""
    signs = [(sign, passage.trained) for passage in row for sign in _escaped(passage.text)]
    lines = []
    for start in range(0, min(len(signs), SHOWN), LINE):
        part = signs[start : min(start + LINE, SHOWN)]
        if colour:
            lines.append("".join(sign if trained else DIM + sign + PLAIN for sign, trained in part))
            continue
        lines.append("".join(sign for sign, _ in part))
        marks = "".join((" " if trained else "-") * len(sign) for sign, trained in part).rstrip()
        lines += [marks] if marks else []
    if len(signs) > SHOWN:
        lines.append(f"... and {len(signs) - SHOWN:,} characters")
    return lines


def _escaped(text: str) -> list[str]:
    """Characters that can be printed; of a line break the two of its escape."""
    return [c if c.isprintable() else c.encode("unicode_escape").decode() for c in text]


def _data_size(stage: StagePreview) -> str:
    if not stage.available:
        return "`lmkit train` gets it"
    if stage.step and stage.data_rows is not None:
        return f"{stage.data_rows:,} to train on"
    if stage.data_tokens is None or stage.data_rows is None:
        return "its tokens are counted when training begins"
    if stage.counted:
        return f"{stage.data_tokens:,} tokens to train on, {stage.data_rows:,} rows"
    tokens, rows = map(readable_count, (stage.data_tokens, stage.data_rows))
    return f"about {tokens} tokens to train on, {rows} rows, by its first documents"


def _length(stage: StagePreview) -> str:
    if stage.steps is None:
        return f"epochs: {stage.epochs:g}; the steps are counted when training begins"
    length = f"{stage.steps:,} steps"
    length += f", {stage.tokens:,} tokens" if stage.tokens is not None else ""
    if stage.epochs is None:
        return length
    epochs = f"{stage.epochs:.3g} epochs"
    if stage.counted:
        return f"{length}, {epochs}"
    if stage.follows_data:
        return f"about {length}, {epochs}; the steps are counted when training begins"
    return f"{length}, about {epochs}"


def _step(stage: StagePreview) -> list[str]:
    if stage.step:
        return [stage.step]
    micro_steps = f"in {stage.micro_steps} micro-steps of {stage.micro_batch} rows"
    lines = [
        f"{stage.batch_rows:,} rows of {stage.width:,}: {stage.batch_tokens:,} tokens, "
        f"{micro_steps if stage.micro_steps > 1 else 'all rows at once'}"
    ]
    if stage.trained is not None and stage.trained < 0.995:
        lines.append(f"{stage.trained:.0%} of the first rows' tokens are trained")
    return lines


def _why(stage: StagePreview, key: str) -> list[str]:
    return _filled(f"{key}: auto is {stage.why[key]}") if key in stage.why else []


def _rates(each: OptimizerPreview) -> list[str]:
    said = f"{each.label:<24} {each.parameters:>15,} parameters"
    said += f", rate {each.rate:.3g}" if each.rate is not None else ""
    said += f", decay {each.decay:.3g}" if each.decay else ""
    return [said, *(f"  {line}" for line in _filled(each.why))]


def _memory(memory: Memory) -> list[str]:
    parts = {name: n for name, n in memory.parts.items() if n != 0}
    named = [f"{name} {'?' if n is None else readable(n)}" for name, n in parts.items()]
    known = sum(n for n in parts.values() if n is not None)
    least = "" if memory.total is not None else "more than "
    lines = [f"{least}about {readable(known)} (an estimate)", *_filled(", ".join(named))]
    if memory.available is not None and known > memory.available:
        lines.append(f"more than the {readable(memory.available)} that this device has")
    if not memory.on_host and memory.copy is not None:
        lines.append(f"a save copies {readable(memory.copy)} into the host's memory")
    return lines


def _time(preview: Preview, stage: StagePreview) -> list[str]:
    seconds = preview.seconds(stage)
    if stage.tokens is None:
        return ["not known before training begins"]
    if seconds is None:
        return ["unknown: the model does not tell its FLOPs, but --run measures it"]
    if preview.micro_step is not None:
        return [f"about {_long_time(seconds)} at the speed of the micro-step"]
    product = f"{preview.product_rate / 1e9:,.0f} GFLOP/s"
    return [
        f"about {_long_time(seconds)} (an estimate)",
        f"matrix products reach {product} here; training, it is assumed, {EFFICIENCY:.0%} of that",
    ]


def _long_time(seconds: float) -> str:
    days = seconds / 86_400
    return f"{days:,.0f} days" if days >= 3 else readable_time(seconds)


def _filled(text: str) -> list[str]:
    return textwrap.wrap(text, WIDEST - LABEL - 2)


def _entry(label: str, *lines: str) -> Iterator[str]:
    """Lines beside a label."""
    for index, line in enumerate(lines):
        margin = label if index == 0 else ""
        yield f"{margin:<{LABEL}}{line}".rstrip()
