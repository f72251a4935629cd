from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from lmkit.errors import DataError
from lmkit.evals import Problem
from lmkit.prompts import Completion, Message, Part
from lmkit.tasks.gsm8k import GSM8K, final_number

REAL = Path("/work/shared/data/gsm8k_train.jsonl")
SOLUTION = "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=72.00>>72.00.\n#### 72"


def task_of(folder: Path, *answers: str, **options: bool) -> GSM8K:
    file = folder / "problems.jsonl"
    rows = [{"question": f"Question {n}?", "answer": answer} for n, answer in enumerate(answers)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return GSM8K(str(file), **options)


def first(task: GSM8K) -> Problem:
    return task.problems("all")[0]


def test_annotations_are_calls_of_the_calculator(tmp_path: Path) -> None:
    problem = first(task_of(tmp_path, SOLUTION))
    assert problem.messages == (Message("user", "Question 0?"),)
    assert problem.solution == Message(
        "assistant",
        (
            Part("text", "She sold 48/2 = "),
            Part("python", "48/2"),
            Part("python_output", "24"),
            Part("text", "24 clips.\nIn all 48+24 = "),
            Part("python", "48+24"),
            Part("python_output", "72"),  # as the calculator will write it
            Part("text", "72.00.\n#### 72"),
        ),
    )
    assert (problem.answer, problem.at) == ("72", f"{tmp_path}/problems.jsonl:1")


def test_what_the_calculator_cannot_do_stays_as_it_is(tmp_path: Path) -> None:
    solution = first(task_of(tmp_path, "<<two and two=4>>4\n#### 4")).solution
    assert solution is not None
    assert solution.parts[:2] == (Part("python", "two and two"), Part("python_output", "4"))


def test_without_tools_the_steps_are_text(tmp_path: Path) -> None:
    solution = first(task_of(tmp_path, SOLUTION, tools=False)).solution
    assert solution is not None
    assert solution.content == "She sold 48/2 = 24 clips.\nIn all 48+24 = 72.00.\n#### 72"


def test_with_and_without_tools_are_other_documents(tmp_path: Path) -> None:
    prints = {task_of(tmp_path, SOLUTION, tools=tools).fingerprint() for tools in (True, False)}
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 72", "72"),
        ("6 * 7 = 42\n#### 42", "42"),
        ("#### 7\nNo:\n#### 8", "8"),
        ("#### 1,234,567", "1234567"),
        ("#### $18.00 in 2 days", "18"),
        ("####-5", "-5"),
        ("#### -$5.", "-5"),
        ("The answer is 12.", "12"),
        ("It is 3, no, 4", "4"),
        ("10-3", "3"),
        ("$.75", "0.75"),
        ("1,2,3", "3"),
    ],
)
def test_the_final_number(text: str, number: str) -> None:
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "####", "5 apples\n#### five", "٣"])
def test_no_final_number(text: str) -> None:
    assert final_number(text) is None


def test_the_score_is_the_final_number(tmp_path: Path) -> None:
    task = task_of(tmp_path, SOLUTION)

    def score(text: str) -> float:
        return task.score(first(task), Completion("", text, (), "stop"))

    assert score("so\n#### 72") == score("#### 72.0") == score("it is 72") == 1.0
    assert score("72\n#### 27") == score("") == score("seventy-two") == 0.0


@pytest.mark.parametrize("answer", ["It is 72", "72 ####", "#### many"])
def test_an_answer_without_its_number_names_the_line(tmp_path: Path, answer: str) -> None:
    with pytest.raises(DataError, match=r"problems\.jsonl:2: the answer does not end with"):
        task_of(tmp_path, SOLUTION, answer).problems("validation")


def test_a_missing_answer_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "Why?", "answr": "#### 1"}')
    with pytest.raises(DataError, match=r"problems\.jsonl:1: .* did you mean 'answr'\?"):
        GSM8K(str(file)).problems("train")
    file.write_text('{"question": "Why?", "answer": null}')
    with pytest.raises(DataError, match=r"problems\.jsonl:1: 'answer' is None"):
        GSM8K(str(file)).problems("train")


@pytest.mark.skipif(not REAL.exists(), reason="the training file is not here")
def test_the_real_file() -> None:
    task = GSM8K(str(REAL))
    train, validation = task.problems("train"), task.problems("validation")
    assert len(train) + len(validation) == 7473
    assert 250 < len(validation) < 500
    assert not {p.messages for p in train} & {p.messages for p in validation}
    calls = 0
    for problem in [*train, *validation]:
        assert problem.solution is not None
        assert task.score(problem, Completion("", problem.solution.text, (), "stop")) == 1.0
        kinds = [part.type for part in problem.solution.parts]
        calls += kinds.count("python")
        assert kinds[-1] == "text"
        assert "<<" not in problem.solution.text
    assert calls == 23_716
