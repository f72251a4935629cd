from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lmkit.data.corpora import place_of
from lmkit.data.known import KNOWN, Known
from lmkit.errors import ConfigError, DataError
from lmkit.evals import Problem
from lmkit.prompts import Message
from lmkit.tasks.tables import TableTask, column


class Sums(TableTask):
    """Rows {question, answer}."""

    corpus = "sums"
    parts = ("train", "test")

    def problem(self, row: Mapping[str, Any], at: str) -> Problem:
        question, answer = (column(row, name, str, at) for name in ("question", "answer"))
        solution = Message("assistant", answer)
        return Problem((Message("user", question),), solution, answer, at=at)


def rows(numbers: range) -> list[dict[str, str]]:
    return [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in numbers]


def jsonl(folder: Path, numbers: range, name: str = "sums.jsonl") -> str:
    (folder / name).write_text("\n".join(map(json.dumps, rows(numbers))))
    return str(folder / name)


def parquet(path: Path, numbers: range) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows(numbers)), path)
    return str(path)


def answers(task: TableTask, split: Any) -> set[str]:
    return {problem.answer for problem in task.problems(split)}


def test_a_share_of_one_file_is_held_out(tmp_path: Path) -> None:
    task = Sums(jsonl(tmp_path, range(400)), holdout=0.2)
    train, validation = answers(task, "train"), answers(task, "validation")
    assert not train & validation
    assert train | validation == answers(task, "all") == {str(2 * n) for n in range(400)}
    assert 50 < len(validation) < 110


def test_a_question_that_is_asked_twice_is_on_one_side(tmp_path: Path) -> None:
    file = Path(jsonl(tmp_path, range(50)))
    file.write_text(f"{file.read_text()}\n{file.read_text()}")
    task = Sums(str(file), holdout=0.3)
    assert not answers(task, "train") & answers(task, "validation")
    assert len(task.problems("all")) == 100


def test_something_is_held_out_of_a_small_file(tmp_path: Path) -> None:
    task = Sums(jsonl(tmp_path, range(3)))
    assert (len(task.problems("train")), len(task.problems("validation"))) == (2, 1)


def test_a_file_of_its_own_to_be_measured_on(tmp_path: Path) -> None:
    test = jsonl(tmp_path, range(8, 12), "test.jsonl")
    task = Sums(jsonl(tmp_path, range(10)), test)
    assert answers(task, "validation") == {"16", "18", "20", "22"}
    assert answers(task, "train") == {str(2 * n) for n in range(8)}  # 8 and 9 are in both


def test_parquet_and_json_lines_are_alike(tmp_path: Path) -> None:
    kinds = [Sums(jsonl(tmp_path, range(40))), Sums(parquet(tmp_path / "a.parquet", range(40)))]
    first, second = (
        [(p.messages, p.answer) for split in ("train", "validation") for p in task.problems(split)]
        for task in kinds
    )
    assert first == second
    assert kinds[1].problems("train")[0].at.startswith(f"{tmp_path}/a.parquet: row ")


def test_the_first_problems_are_a_fair_sample(tmp_path: Path) -> None:
    task = Sums(jsonl(tmp_path, range(1000)))
    mean = sum(int(problem.answer) for problem in task.problems("train")[:100]) / 100
    assert 850 < mean < 1150  # of 0 ... 1,998 in the file's order it would be 100


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the files of the data set `sums` come to lie; there is no server."""
    monkeypatch.setenv("LMKIT_CACHE", str(tmp_path / "cache"))
    parts = {"train": ("train.parquet",), "test": ("test.parquet",), "dev": ("dev.parquet",)}
    sums = Known("sums", "MIT", 1000, parts, address="http://127.0.0.1:9/")
    monkeypatch.setitem(KNOWN, "sums", sums)
    return place_of("sums").folder


def test_published_files_are_used_where_no_path_is_given(published: Path) -> None:
    parquet(published / "train.parquet", range(30))
    parquet(published / "test.parquet", range(28, 40))
    task = Sums()
    assert task.available()
    assert answers(task, "train") == {str(2 * n) for n in range(28)}
    assert answers(task, "validation") == {str(2 * n) for n in range(28, 40)}
    assert task.describe() == "Sums: train of sums and test of sums"


def test_what_is_not_here_is_not_fetched_to_describe_it(published: Path) -> None:
    task = Sums()
    assert not task.available()
    assert "train of sums (not on this disk yet)" in task.describe()
    assert not published.exists()


def test_only_the_part_that_is_measured_on_is_fetched_to_measure(published: Path) -> None:
    parquet(published / "test.parquet", range(4))
    assert len(Sums().problems("validation")) == 4


def test_a_path_is_looked_up_beside_the_yaml(tmp_path: Path) -> None:
    jsonl(tmp_path, range(4))
    assert len(Sums("sums.jsonl", folder=str(tmp_path)).problems("all")) == 4


def test_the_fingerprint_is_of_content_and_settings(tmp_path: Path) -> None:
    def fingerprint(**options: Any) -> str:
        return Sums(str(tmp_path / "sums.jsonl"), **options).fingerprint()

    jsonl(tmp_path, range(10))
    before = fingerprint()
    assert fingerprint() == before
    assert fingerprint(holdout=0.5) != before
    assert fingerprint(test=str(tmp_path / "sums.jsonl")) != before
    jsonl(tmp_path, range(11))
    assert fingerprint() != before


def test_a_name_of_its_own(tmp_path: Path) -> None:
    assert (Sums("x").name, Sums("x", name="hard").name) == ("sums", "hard")


def test_a_test_file_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="'test' belongs to 'path'"):
        Sums(test="test.jsonl")


def test_a_missing_file(tmp_path: Path) -> None:
    task = Sums(str(tmp_path / "gone.jsonl"))
    assert not task.available()
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        task.problems("train")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "q", "answr": "a"}, "no column 'answer'; did you mean 'answr'"),
        ({"question": "q"}, "no column 'answer'; it has 'question'"),
        ({"question": "q", "answer": None}, "'answer' is None; it must be"),
        ({"question": "q", "answer": ""}, "'answer' is ''; it must be"),
        ({"question": "q", "answer": 3}, "'answer' is 3; it must be"),
        ({"question": "q", "answer": True}, "'answer' is True; it must be"),
    ],
)
def test_a_missing_answer(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    (tmp_path / "sums.jsonl").write_text(f"\n{json.dumps(row)}\n")
    with pytest.raises(DataError, match=rf"sums\.jsonl:2: .*{said}"):
        Sums(str(tmp_path / "sums.jsonl")).problems("train")
