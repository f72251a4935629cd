from __future__ import annotations

import csv
import json
import math
import random
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmkit.errors import ConfigError, DataError
from lmkit.evals import core, core_bundle
from lmkit.evals.core import CoreResult, evaluate_core
from lmkit.evals.core_bundle import CoreTask, fetched_bundle, read_bundle
from lmkit.evals.core_forms import FORMS, LanguageModeling, MultipleChoice, Schema, form_of
from lmkit.evals.spans import Judged
from lmkit.evals.suite import TaskResult
from lmkit.model import LMBase
from lmkit.text import Byte

CHOICES = [
    {"query": f"q{n}", "choices": [f"x{n}", f"y{n}", "xx", "yy"], "gold": n % 4} for n in range(8)
]
SCHEMAS = [
    {"context_options": [f"x{n}", f"y{n}"], "continuation": "zz", "gold": n % 2} for n in range(7)
]
WORDS = [{"context": f" say {'ab'[n % 2]} \n", "continuation": "ab"[n == 3]} for n in range(5)]
TASKS: list[dict[str, Any]] = [
    {
        "label": "quiz",
        "dataset_uri": "deep/quiz.jsonl",
        "icl_task_type": "multiple_choice",
        "num_fewshot": [2],
        "continuation_delimiter": "\nAnswer: ",
        "has_categories": True,
    },
    {
        "label": "twins",
        "dataset_uri": "twins.jsonl",
        "icl_task_type": "schema",
        "num_fewshot": [0],
    },
    {
        "label": "words",
        "dataset_uri": "words.jsonl",
        "icl_task_type": "language_modeling",
        "num_fewshot": [1],
        "continuation_delimiter": ":",
    },
]
ITEMS = {"deep/quiz.jsonl": CHOICES, "twins.jsonl": SCHEMAS, "words.jsonl": WORDS}
CHANCE = {"quiz": "25", "twins": "50.0", "words": "0"}


def write_bundle(folder: Path) -> Path:
    (folder / "eval_data" / "deep").mkdir(parents=True)
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": TASKS}))  # JSON is YAML
    for name, items in ITEMS.items():
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (folder / "eval_data" / name).write_text(lines)
    with (folder / "eval_meta_data.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Eval Task", "Task Category", "Random baseline", "Description"])
        rows.writerows([label, "any", chance, 'a "b",\nc'] for label, chance in CHANCE.items())
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


class Reader(LMBase):
    """Finds `x` more likely than `y`, and says of `a` and `b` again what it saw last."""

    def __init__(self, max_len: int = 64, scale: float = 1.0) -> None:
        super().__init__(tokenizer=Byte(), max_len=max_len)
        self.scale = nn.Parameter(torch.tensor(scale))
        self.longest = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.longest = max(self.longest, tokens.shape[1])
        logits = torch.zeros(*tokens.shape, 257)
        logits[..., ord("x")] = 1
        for letter in (ord("a"), ord("b")):
            places = torch.arange(tokens.shape[1]).expand_as(tokens)
            seen = torch.where(tokens == letter, places, -1).cummax(dim=1).values
            logits[..., letter] = 2 + seen / 100
        logits[..., ord("z")] = (tokens[:, 1:2] == ord("x")) * 1.0
        return logits * self.scale


# --- the texts ------------------------------------------------------------------------------------


def text_of(form: Any, row: dict[str, Any], shots: Sequence[dict[str, Any]]) -> list[str]:
    tokenizer = Byte()
    (spans,) = form.spans(tokenizer, [(row, shots)])
    assert all(span.ids[0] == tokenizer.bos for span in spans)
    return [tokenizer.decode(span.ids[1:]) for span in spans]


def judged_of(form: Any, row: dict[str, Any], shots: Sequence[dict[str, Any]] = ()) -> list[str]:
    (spans,) = form.spans(Byte(), [(row, shots)])
    return [Byte().decode(span.ids[span.start :]) for span in spans]


def test_multiple_choice_as_text() -> None:
    form = MultipleChoice("\nAnswer: ")
    row = {"query": "Is it? ", "choices": ["yes", "yea", "no"], "gold": 1}
    shot = {"query": "Q", "choices": ["A", "B"], "gold": 1}
    before = "Q\nAnswer: B\n\nQ\nAnswer: B\n\nIs it? \nAnswer: "
    assert text_of(form, row, [shot, shot]) == [before + each for each in row["choices"]]
    assert judged_of(form, row) == ["yes", "yea", "no"]
    assert judged_of(form, row | {"choices": ["yes", "yea"]}) == ["s", "a"]


def test_a_choice_that_begins_another_is_judged_by_its_last_token() -> None:
    form = MultipleChoice(" ")
    row = {"query": "Q", "choices": ["on", "one", "on"], "gold": 1}
    assert judged_of(form, row) == ["n", "e", "n"]


def test_schema_as_text() -> None:
    form = Schema(" ")
    row = {"context_options": ["The cat", "The dog"], "continuation": "ran.", "gold": 0}
    shot = {"context_options": ["A", "B"], "continuation": "C", "gold": 1}
    assert text_of(form, row, [shot]) == ["B C\n\nThe cat ran.", "B C\n\nThe dog ran."]
    assert judged_of(form, row) == [" ran.", " ran."]


def test_language_modeling_as_text() -> None:
    form = LanguageModeling(" ")
    row = {"context": " Paris is in \n", "continuation": "France"}
    shot = {"context": "\tRome is in  ", "continuation": "Italy "}
    assert text_of(form, row, [shot]) == ["Rome is in Italy \n\nParis is in France"]
    assert judged_of(form, row, [shot]) == [" France"]  # the space is of the next token
    assert judged_of(LanguageModeling("\nAnswer: "), row) == [" France"]
    assert judged_of(LanguageModeling(""), row) == ["France"]


def test_no_part_that_is_judged_is_empty() -> None:
    same = {"context_options": ["A", "A"], "continuation": "", "gold": 0}
    assert judged_of(Schema(""), same) == ["A", "A"]
    one = {"context": "", "continuation": " "}
    assert judged_of(LanguageModeling(""), one) == [" "]


def test_the_lowest_loss_is_the_answer_and_of_equal_ones_the_first() -> None:
    form = MultipleChoice(" ")
    found = [Judged(2.0, False), Judged(1.0, False), Judged(1.0, True)]
    assert [form.is_right({"gold": gold}, found) for gold in range(3)] == [False, True, False]
    assert LanguageModeling(" ").is_right({}, [Judged(5.0, True)])
    assert not LanguageModeling(" ").is_right({}, [Judged(0.1, False)])


@pytest.mark.parametrize(
    ("name", "row", "what"),
    [
        ("multiple_choice", {"choices": ["a", "b"], "gold": 0}, "no 'query'"),
        ("multiple_choice", {"quary": "", "choices": [], "gold": 0}, "did you mean 'quary'"),
        ("multiple_choice", {"query": 5, "choices": ["a", "b"], "gold": 0}, "'query' is no text"),
        ("multiple_choice", {"query": "", "choices": ["a"], "gold": 0}, "list of two or more"),
        (
            "multiple_choice",
            {"query": "", "choices": ["a", "b"], "gold": 2},
            "'gold' is 2; it is 0",
        ),
        ("multiple_choice", {"query": "", "choices": ["a", "b"]}, "no 'gold'"),
        ("schema", {"context_options": "ab", "continuation": "c", "gold": 0}, "list of two"),
        ("schema", {"context_options": ["a", "b"], "gold": 0}, "no 'continuation'"),
        ("language_modeling", {"context": "a", "continuation": ""}, "continuation is empty"),
        ("language_modeling", {"continuation": "a"}, "no 'context'"),
    ],
)
def test_a_broken_item_is_told(name: str, row: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=f"^here: .*{what}"):
        form_of(name, " ", "x").check(row, "here")


def test_an_unknown_form_is_told() -> None:
    with pytest.raises(DataError, match="no icl_task_type 'shema'; did you mean 'schema'"):
        form_of("shema", " ", "core.yaml")
    assert {type(form_of(name, " ", "")) for name in FORMS} == set(FORMS.values())


# --- the bundle -----------------------------------------------------------------------------------


def test_the_bundle_is_read(bundle: Path) -> None:
    quiz, twins, words = read_bundle(bundle)
    assert (quiz.label, quiz.shots, quiz.chance) == ("quiz", 2, 0.25)
    assert isinstance(quiz.form, MultipleChoice)
    assert isinstance(twins.form, Schema)
    assert isinstance(words.form, LanguageModeling)
    assert [task.form.delimiter for task in (quiz, twins, words)] == ["\nAnswer: ", " ", ":"]


def test_order_and_shots_are_drawn_as_nanochat_draws_them(bundle: Path) -> None:
    quiz = read_bundle(bundle)[0]
    expected = list(CHOICES)
    random.Random(1337).shuffle(expected)
    rows = quiz.read()
    assert rows == expected
    for number in range(len(rows)):
        others = [other for other in range(len(rows)) if other != number]
        drawn = random.Random(1234 + number).sample(others, 2)
        assert quiz.with_shots(rows, number) == (rows[number], [rows[n] for n in drawn])


def broken(bundle: Path, file: str, text: str) -> str:
    (bundle / file).write_text(text)
    with pytest.raises(DataError) as raised:
        list(map(CoreTask.read, read_bundle(bundle)))
    return str(raised.value).replace(str(bundle), "")


def test_a_broken_bundle_is_told(bundle: Path) -> None:
    def yaml(**changes: object) -> str:
        entry = {key: value for key, value in {**TASKS[0], **changes}.items() if value is not None}
        return json.dumps({"icl_tasks": [entry]})

    line = "eval_data/deep/quiz.jsonl"
    kept = json.dumps(CHOICES[0])
    assert broken(bundle, line, f"{kept}\n{{").startswith(f"/{line}:2: not JSON")
    assert "/quiz.jsonl:2: an item has no 'query'" in broken(bundle, line, f"{kept}\n{{}}")
    assert broken(bundle, line, f"{kept}\n{kept}\n") == (
        f"/{line}: 2 items, of which 2 are to be shown before another; 3 are needed"
    )
    missing = broken(bundle, "core.yaml", yaml(dataset_uri="none.jsonl"))
    assert "/eval_data/none.jsonl" in missing
    assert "No such file" in missing
    assert "/core.yaml: num_fewshot of quiz is 'x'" in broken(
        bundle, "core.yaml", yaml(num_fewshot=["x"])
    )
    assert "quiz has no 'num_fewshot'" in broken(bundle, "core.yaml", yaml(num_fewshot=None))
    assert "no random baseline for 'new'" in broken(bundle, "core.yaml", yaml(label="new"))
    for text in ("x: [", "tasks: []", "icl_tasks: [1]", "5", "icl_tasks:"):
        assert "no list of icl_tasks" in broken(bundle, "core.yaml", text)
    (bundle / "core.yaml").write_text(yaml())
    assert "row 1: a row without" in broken(bundle, "eval_meta_data.csv", "Eval Task\nquiz\n")


def test_no_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="core.yaml: cannot be read: No such file"):
        read_bundle(tmp_path)


def test_the_published_bundle_is_fetched_and_unpacked_once(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "downloads" / "eval_bundle.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w") as file:
        for path in bundle.rglob("*"):
            file.write(path, Path("eval_bundle") / path.relative_to(bundle))
    asked = []

    class Place:
        def get(self, name: str) -> Path:
            asked.append(name)
            return packed

    monkeypatch.setattr(core_bundle, "place_of", lambda name: Place())
    assert [task.label for task in read_bundle(fetched_bundle())] == ["quiz", "twins", "words"]
    (fetched_bundle() / "core.yaml").write_text(json.dumps({"icl_tasks": TASKS[1:2]}))
    assert [task.name for task in evaluate_core(Reader()).tasks] == ["twins"]
    assert asked == ["eval_bundle.zip"] * 3


# --- the measure ----------------------------------------------------------------------------------


def test_core_is_the_mean_over_chance(bundle: Path) -> None:
    told: list[TaskResult] = []
    found = evaluate_core(Reader(), bundle, progress=told.append)
    assert found.tasks == tuple(told)
    quiz, twins, words = found.tasks
    # of "x0", "y0", "xx", "yy" the third; gold is that in 2 of 8; and of two twins the x
    assert (quiz.name, quiz.value, quiz.count, quiz.chance) == ("quiz", 2 / 8, 8, 0.25)
    assert (twins.value, twins.count) == (4 / 7, 7)
    assert quiz.stderr == pytest.approx(math.sqrt(0.25 * 0.75 / 8))
    assert quiz.centered == 0
    assert twins.centered == pytest.approx((4 / 7 - 0.5) / 0.5)
    assert (words.value, words.count) == (4 / 5, 5)  # of "say b" the model says b, once in vain
    centered = [quiz.centered, twins.centered, words.centered]
    assert found.value == pytest.approx(sum(centered) / 3)
    errors = [quiz.stderr / 0.75, twins.stderr / 0.5, words.stderr]
    assert found.stderr == pytest.approx(math.hypot(*errors) / 3)


def test_a_window_of_any_size_gives_the_same(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evaluate_core(Reader(), bundle)
    for window in (1, 3):
        monkeypatch.setattr(core, "WINDOW", window)
        assert evaluate_core(Reader(), bundle) == found


@pytest.mark.parametrize("size", [2, 3, 9])
def test_the_ranks_together_are_one(bundle: Path, size: int) -> None:
    shares: list[list[list[float]]] = []
    for rank in range(size):
        counted: list[list[float]] = []
        evaluate_core(
            Reader(),
            bundle,
            rank=rank,
            size=size,
            add=lambda numbers, kept=counted: kept.append(list(numbers)) or list(numbers),
        )
        shares.append(counted)
    sums = iter(
        [[sum(each) for each in zip(*task, strict=True)] for task in zip(*shares, strict=True)]
    )
    assert evaluate_core(Reader(), bundle, rank=1, size=size, add=lambda _: next(sums)) == (
        evaluate_core(Reader(), bundle)
    )


def test_a_limit_asks_the_first_items_as_they_would_be_asked_without(bundle: Path) -> None:
    def solved(found: CoreResult) -> list[float]:
        return [task.value * task.count for task in found.tasks]

    results = [solved(evaluate_core(Reader(), bundle, limit=limit)) for limit in range(1, 9)]
    assert results[-1] == solved(evaluate_core(Reader(), bundle))
    for less, more in zip(results, results[1:], strict=False):
        assert all(0 <= b - a <= 1.000001 for a, b in zip(less, more, strict=True))
    assert [task.count for task in evaluate_core(Reader(), bundle, limit=6).tasks] == [6, 6, 5]
    with pytest.raises(ConfigError, match="limit is 0"):
        evaluate_core(Reader(), bundle, limit=0)


def test_a_long_prompt_loses_its_beginning_and_is_counted(bundle: Path) -> None:
    model = Reader(max_len=40)
    quiz, twins, words = evaluate_core(model, bundle).tasks
    assert (quiz.cut, twins.cut, words.cut) == (8, 0, 0)
    assert model.longest < 40
    assert quiz.value == evaluate_core(Reader(), bundle).tasks[0].value
    assert evaluate_core(Reader(max_len=3), bundle).tasks[1].cut == 7


def test_a_model_without_an_opinion_takes_the_first_choice(bundle: Path) -> None:
    quiz, twins, _ = evaluate_core(Reader(scale=0.0), bundle).tasks
    assert quiz.value == sum(row["gold"] == 0 for row in CHOICES) / 8
    assert twins.value == sum(row["gold"] == 0 for row in SCHEMAS) / 7


def test_a_task_is_read_with_its_own_number_of_shots(bundle: Path) -> None:
    task = read_bundle(bundle)[2]
    assert isinstance(task, CoreTask)
    rows = task.read()
    row, shots = task.with_shots(rows, 0)
    (span,) = task.form.spans(Byte(), [(row, shots)])[0]
    solved = f"{shots[0]['context'].strip()}:{shots[0]['continuation']}"
    asked = f"{row['context'].strip()}:{row['continuation']}"
    assert Byte().decode(span.ids[1:]) == f"{solved}\n\n{asked}"
