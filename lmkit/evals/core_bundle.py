"""core_bundle: the folder of the CORE benchmark, read and checked; runs no model.

core.yaml             icl_tasks: label, dataset_uri, icl_task_type, num_fewshot, and sometimes
                      continuation_delimiter of each task
eval_meta_data.csv    "Eval Task" and "Random baseline", in percent
eval_data/            the items, JSON lines
"""

from __future__ import annotations

import csv
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmkit.data.cache import publish
from lmkit.data.corpora import place_of
from lmkit.data.files import reading
from lmkit.data.known import known
from lmkit.data.sources import JsonLines
from lmkit.errors import DataError
from lmkit.evals.core_forms import Form, Row, form_of

ORDER_SEED = 1337  # nanochat's
SHOTS_SEED = 1234  # and an item's number: nanochat's too


@dataclass(frozen=True)
class CoreTask:
    """One of the tasks.

    Attributes:
        label: its name.
        path: its items.
        form: how they are asked.
        shots: solved items that are shown before each.
        chance: what blind guessing reaches.
    """

    label: str
    path: Path
    form: Form
    shots: int
    chance: float

    def read(self) -> list[Row]:
        """Its items, in an order that is drawn once and for all.

        Raises:
            DataError: the file is missing, or an item has another form; names file and line.
        """
        table = JsonLines(str(self.path))
        rows = []
        for at, line in table.rows(self.path):
            row = dict(table.parse(line, at))
            self.form.check(row, at)
            rows.append(row)
        if len(rows) <= self.shots:
            what = f"{len(rows)} items, of which {self.shots} are to be shown before another"
            raise DataError(what, hint=f"{self.shots + 1} are needed", at=self.path)
        random.Random(ORDER_SEED).shuffle(rows)
        return rows

    def with_shots(self, rows: list[Row], number: int) -> tuple[Row, list[Row]]:
        """An item, and those that are shown before it: drawn from all others."""
        drawn = random.Random(SHOTS_SEED + number).sample(range(len(rows) - 1), self.shots)
        return rows[number], [rows[other + (other >= number)] for other in drawn]


def fetched_bundle() -> Path:
    """The published bundle, downloaded (162 MB) and unpacked if it is not here yet.

    Raises:
        DataError: it cannot be had; says what to download by hand.
    """
    (name,) = known("core").parts["all"]
    packed = place_of("core").get(name)

    def unpack(aside: Path) -> None:
        with reading(packed), zipfile.ZipFile(packed) as file:
            file.extractall(aside)

    return publish(packed.with_suffix(""), unpack) / packed.stem


def read_bundle(folder: Path) -> list[CoreTask]:
    """The tasks of a bundle, in its order.

    Raises:
        DataError: it is no bundle; names the file.
    """
    file = folder / "core.yaml"
    try:
        with reading(file):
            about = yaml.safe_load(file.read_text(encoding="utf-8"))
        entries = about["icl_tasks"]
        tasks = [dict(entry) for entry in entries]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            "this is no list of icl_tasks", hint="take the bundle's own core.yaml", at=file
        ) from error
    chances = dict(_chances(folder / "eval_meta_data.csv"))
    return [_task(folder, entry, chances, file) for entry in tasks]


def _task(folder: Path, entry: dict[str, Any], chances: dict[str, float], file: Path) -> CoreTask:
    for key in ("label", "dataset_uri", "icl_task_type", "num_fewshot"):
        if key not in entry:
            raise DataError(f"the task {entry.get('label', entry)} has no {key!r}", at=file)
    label, shots = str(entry["label"]), entry["num_fewshot"]
    shots = shots[0] if isinstance(shots, list) and shots else shots
    if not isinstance(shots, int) or shots < 0:
        raise DataError(f"num_fewshot of {label} is {shots!r}", hint="it is a list: [10]", at=file)
    if label not in chances:
        what = f"there is no random baseline for {label!r}"
        raise DataError(what, at=folder / "eval_meta_data.csv")
    form = form_of(entry["icl_task_type"], str(entry.get("continuation_delimiter", " ")), file)
    path = folder / "eval_data" / str(entry["dataset_uri"])
    return CoreTask(label, path, form, shots, chances[label])


def _chances(file: Path) -> Iterator[tuple[str, float]]:
    with reading(file), file.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=1):
            try:
                yield row["Eval Task"], float(row["Random baseline"]) / 100
            except (KeyError, TypeError, ValueError) as error:
                what = "a row without 'Eval Task' and a number for 'Random baseline'"
                raise DataError(what, at=f"{file}: row {number}") from error
