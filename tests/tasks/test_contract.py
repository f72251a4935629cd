"""Every task made offline: the same problems everywhere, nothing on both sides, a right score."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmkit.config.registry import build, resolve
from lmkit.evals.task import Problem, Task
from lmkit.inference.tools import calculate
from lmkit.prompts import Completion, Message
from lmkit.tasks import TASKS
from lmkit.text.chat import check_conversation

FACTS = """\
name: Pip
maker: three friends in a kitchen
purpose: do sums and spell words
questions:
  - {question: ["Who do you like?", "Do you like anyone?"], answer: "I like Ann.", expects: Ann}
"""
CHATS = [
    {"messages": [{"role": "user", "content": f"Is {n} odd?"}, {"role": "assistant", "content": a}]}
    for n, a in ((1, "Yes."), (2, "No."), (3, "Yes."), (4, "No."))
]
CHOICES = [
    {"question": f"Which is {n}?", "choices": ["1", "2", "3"], "answer": str(n)} for n in (1, 2, 3)
]
# short name -> what it is made with; files are written by `folder`
OFFLINE: list[tuple[str, dict[str, Any]]] = [
    ("arithmetic", {}),
    ("arithmetic", {"tools": False, "steps": True, "digits": [1, 3], "wordings": ["spoken"]}),
    ("arithmetic", {"tools": "mixed", "answer": "number", "wordings": ["story", "short"]}),
    ("spelling", {}),
    ("spelling", {"tools": "mixed", "steps": False, "words": "words.txt", "kinds": ["count"]}),
    ("echo", {}),
    ("format", {}),
    ("identity", {"facts": "facts.yaml"}),
    ("conversations", {"path": "chats.jsonl"}),
    ("multiple_choice", {"path": "choices.jsonl"}),
    ("multiple_choice", {"path": "choices.jsonl", "kind": "choice"}),
]
IDS = [f"{name}-{number}" for number, (name, _) in enumerate(OFFLINE)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "facts.yaml").write_text(FACTS, encoding="utf-8")
    (folder / "words.txt").write_text("\n".join(f"wörd{'abcdefghijklmnop'[n]}" for n in range(16)))
    for name, rows in (("chats", CHATS), ("choices", CHOICES)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def make(name: str, arguments: dict[str, Any], folder: Path) -> Task:
    task = build({"class": TASKS[name], **arguments}, folder=str(folder))
    assert isinstance(task, Task)
    return task


def digest(task: Task) -> str:
    """Over the first problems of both sides."""
    some = [*task.problems("train")[:40], *task.problems("validation")[:10]]
    told = [[repr(problem.messages), repr(problem.solution), problem.answer] for problem in some]
    return hashlib.sha256(json.dumps([*told, task.fingerprint()]).encode()).hexdigest()


@pytest.fixture(params=OFFLINE, ids=IDS)
def task(request: pytest.FixtureRequest, folder: Path) -> Task:
    return make(*request.param, folder)


def some_problems(task: Task) -> list[Problem]:
    return [*task.problems("train")[:60], *task.problems("validation")[:30]]


def test_every_short_name_is_a_task() -> None:
    for name, path in TASKS.items():
        assert issubclass(resolve(path), Task), name


def test_no_question_is_trained_and_held_out(task: Task) -> None:
    train, validation = (
        {problem.messages for problem in task.problems(split)[:400]}  # type: ignore[index]
        for split in ("train", "validation")
    )
    assert train
    assert validation
    assert not train & validation


def test_all_are_both_sides(task: Task) -> None:
    train, validation, both = (task.problems(split) for split in ("train", "validation", "all"))
    assert len(both) == len(train) + len(validation)
    assert both[0] == train[0]
    assert both[-1] == validation[-1]


def test_the_solution_scores_1(task: Task) -> None:
    for problem in some_problems(task):
        assert problem.solution is not None
        said = Completion("", problem.solution.text, (), "stop", problem.solution.parts)
        assert task.score(problem, said) == 1.0, problem


@pytest.mark.parametrize("said", ["", "I do not know.", "it is 98765432101234567890"])
def test_a_wrong_answer_scores_0(task: Task, said: str) -> None:
    for problem in some_problems(task):
        assert task.score(problem, Completion("", said, (), "stop")) == 0.0, problem


def test_documents_are_conversations_with_the_calculators_own_results(task: Task) -> None:
    documents = task.documents("all")
    for _, document in zip(range(100), documents, strict=False):
        check_conversation(document.messages, document.at)
        assert document.at
        parts = document.messages[-1].parts
        for call, output in zip(parts, parts[1:], strict=False):
            if call.type == "python":
                assert output.type == "python_output"
                assert output.text == calculate(call.text)


def test_an_answer_fits_in_max_new_tokens_of_a_byte_each(task: Task) -> None:
    def tokens(turn: Message) -> int:
        marks = sum(part.type != "text" for part in turn.parts)
        return sum(len(part.text.encode()) for part in turn.parts) + 2 * marks + 1  # and the end

    assert all(tokens(problem.solution) <= task.max_new_tokens for problem in some_problems(task))


def test_it_describes_itself_in_a_line(task: Task) -> None:
    assert task.name
    assert type(task).__name__ in task.describe()
    assert "\n" not in task.describe()


def test_another_setting_is_another_fingerprint(folder: Path) -> None:
    tasks = [make(*each, folder) for each in OFFLINE]
    assert len({task.fingerprint() for task in tasks}) == len(tasks)
    again = [make(*each, folder) for each in OFFLINE]
    assert [task.fingerprint() for task in again] == [task.fingerprint() for task in tasks]


def test_another_process_makes_the_same_problems(folder: Path) -> None:
    code = (
        "import sys, importlib.util, pathlib\n"
        "spec = importlib.util.spec_from_file_location('contract', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "for each in module.OFFLINE:\n"
        "    print(module.digest(module.make(*each, pathlib.Path(sys.argv[2]))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, __file__, str(folder)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "77"},
    )  # fmt: skip
    assert done.stdout.split() == [digest(make(*each, folder)) for each in OFFLINE]
