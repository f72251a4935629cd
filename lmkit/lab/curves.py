"""curves: which curves a run has; draws none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lmkit.lab.charts import Chart, Points, Series, Span
from lmkit.lab.run_history import RunHistory, StageHistory
from lmkit.train.display import readable_count

STDERR, ENDED = "_stderr", "_ended"
SIZES = ("tokens", "bytes")  # how much was measured on, no result
LEARNED = ("loss", "bits_per_byte")  # measured at every step and on held-out text
NAMES = {
    "bits_per_byte": "bits per byte",
    "loss": "loss, nats per token",
    "tokens_per_second": "tokens per second",
    "grad_norm": "gradient norm",
}


def charts(run: RunHistory) -> Iterator[Chart]:
    """The loss first, then what was evaluated, what else was measured, rates, and speed."""
    stages = run.stages
    spans = tuple(Span(stage.name, stage.first or stage.last, stage.last) for stage in stages)
    for name in LEARNED:
        train = series_of((stage for stage in stages if not stage.rewarded), name)
        held_out = evaluated(stages, name)
        series = [Series("training", train, noisy=True)] if train else []
        series += [Series("held out", held_out, dots=True)] if held_out else []
        if series:
            yield Chart(NAMES[name], tuple(series), spans)
    yield from _tasks(stages, spans)
    yield from _measures(stages, spans)
    if rates := _rates(stages):
        tops = ", ".join(f"{name} {top:.3g}" for name, top, _ in rates)
        kinds = _unlike([Series(name, points) for name, _, points in rates])
        note = f"in per cent of the highest, which is: {tops}"
        yield Chart("learning rate", kinds, spans, note, "{:.0%}".format)
    if pace := series_of(stages, "tokens_per_second"):
        series = [Series("training", pace, noisy=True)]
        yield Chart(NAMES["tokens_per_second"], tuple(series), spans, write=readable_count)


def results(stages: Sequence[StageHistory]) -> list[str]:
    """The names of what was evaluated, in their order; not those of its errors and sizes."""
    names = dict.fromkeys(name for stage in stages for name in stage.evaluations)
    errors = {name + STDERR for name in names}
    return [name for name in names if name not in errors and name not in SIZES]


def is_share(name: str, stages: Iterable[StageHistory]) -> bool:
    """Whether it is an accuracy or the like: told in per cent, and better when higher."""
    measured = {each for stage in stages for each in stage.evaluations}
    return name + STDERR in measured or name.endswith(ENDED)


def readable_name(name: str) -> str:
    """`bits per byte`; of what is not known here the name with spaces."""
    return NAMES.get(name, name.replace("_", " "))


def result_name(name: str) -> str:
    """As `readable_name`, of what was evaluated."""
    task = name.removesuffix(ENDED)
    return readable_name(name) if task == name else f"{task}, answers ended"


def series_of(stages: Iterable[StageHistory], name: str) -> Points:
    """(step, value) of what is measured at steps, over the stages."""
    return [point for stage in stages for point in stage.series.get(name, ())]


def evaluated(stages: Iterable[StageHistory], name: str) -> Points:
    """(step, value) of what is evaluated, over the stages."""
    return [point for stage in stages for point in stage.evaluations.get(name, ())]


def _tasks(stages: Sequence[StageHistory], spans: tuple[Span, ...]) -> Iterator[Chart]:
    """What is evaluated beside the loss; with a task the share of answers that ended."""
    names = [name for name in results(stages) if name not in LEARNED]
    for name in names:
        if name.endswith(ENDED) and name.removesuffix(ENDED) in names:
            continue
        errors = evaluated(stages, name + STDERR)
        series = [
            Series(result_name(name), evaluated(stages, name), dots=True, errors=tuple(errors))
        ]
        if ended := evaluated(stages, name + ENDED):
            series.append(Series("answers ended", ended, dots=True))
        write = "{:.0%}".format if is_share(name, stages) else "{:.4g}".format
        yield Chart(result_name(name), tuple(series), spans, write=write)


def _measures(stages: Sequence[StageHistory], spans: tuple[Span, ...]) -> Iterator[Chart]:
    """What an objective measures at its steps, such as a reward; then the gradient's norm."""
    known = (*LEARNED, "tokens_per_second", "grad_norm")
    names = dict.fromkeys(name for stage in stages for name in stage.series)
    others = [name for name in names if name not in known and not name.startswith("rate_")]
    for name in [*others, *(["grad_norm"] if "grad_norm" in names else [])]:
        measured = {stage.name for stage in stages if name in stage.series}
        shown = tuple(span for span in spans if span.name in measured)
        series = Series("training", series_of(stages, name), noisy=True)
        yield Chart(readable_name(name), (series,), shown)


def _rates(stages: Sequence[StageHistory]) -> list[tuple[str, float, Points]]:
    """(optimizer, its highest rate, its rates as shares of that)."""
    names = dict.fromkeys(name for stage in stages for name in stage.series)
    found: list[tuple[str, float, Points]] = []
    for name in names:
        points = series_of(stages, name)
        top = max(value for _, value in points)
        if name.startswith("rate_") and top > 0:
            shares = [(step, value / top) for step, value in points]
            found.append((name.removeprefix("rate_"), top, shares))
    return found


def _unlike(series: list[Series]) -> tuple[Series, ...]:
    """One of each kind: most optimizers follow one schedule, and their curves are the same."""
    kept: list[Series] = []
    for each in series:
        if not any(_near(one.points, each.points) for one in kept):
            kept.append(each)
    return tuple(kept)


def _near(one: Points, other: Points) -> bool:
    same = [step for step, _ in one] == [step for step, _ in other]
    return same and all(abs(a - b) < 1e-3 for (_, a), (_, b) in zip(one, other, strict=True))
