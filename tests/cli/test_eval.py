from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lmkit.checkpoints import manifest, record
from lmkit.checkpoints.contents import CheckpointContents
from lmkit.text import Byte
from lmkit.train.loading import find_checkpoint
from lmkit_models.gpt import GPT

SIZES = {"vocab_size": 257, "depth": 1, "width": 16, "head_dim": 8, "max_len": 48}
TASKS = '''\
from lmkit.evals import Problem, Task
from lmkit.prompts import Message


class Letters(Task):
    """Of six questions A is right twice; a model without an opinion says A."""

    kind = "letters"
    asked = "q"

    def problems(self, split):
        return [
            Problem((Message("user", self.asked * n),), choices=("A", "B", "C"), correct=n % 3)
            for n in range(6)
        ]

    def fingerprint(self):
        return "letters"


class Long(Letters):
    name = "very_long_questions"
    asked = "q" * 20


class Written(Letters):
    kind = "generative"
    max_new_tokens = 4

    def __init__(self, wanted: str = "a"):
        self.wanted = wanted

    def score(self, problem, completion):
        return len(completion.text) / 4 if self.wanted == "length" else 0.0
'''


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A model that finds everything equally likely, trained in fp32; tasks lie beside it."""
    model = GPT(tokenizer=Byte(), **SIZES)
    torch.nn.init.zeros_(model.head.weight)
    return save(model, tmp_path / "checkpoint")


def save(model: GPT, place: Path, precision: str = "fp32", **experiment: Any) -> Path:
    state = {"precision": {"name": precision, "scale": 1.0, "good_steps": 0}}
    contents = CheckpointContents(model, state=state, stage="sft", step=1200, experiment=experiment)
    return contents.write(place)


@pytest.fixture
def evaluate(lmkit: Callable[..., Any]) -> Callable[..., Any]:
    """Run `lmkit eval` where `my_tasks.py` lies."""
    Path("my_tasks.py").write_text(TASKS)
    return lambda *words: lmkit("eval", *words, "--device", "cpu")


def test_a_table(checkpoint: Path, evaluate: Any) -> None:
    done = evaluate(checkpoint, "--tasks", "my_tasks.Letters")
    assert done.code == 0, done.err
    assert "step 1,200, computed in fp32" in done.out
    head, row = done.out.splitlines()[-2:]
    assert head.split() == ["validation", "n", "accuracy", "chance", "centred", "ended", "seconds"]
    name, n, *rest = row.split()
    assert (name, n) == ("letters", "6")
    # 2 of 6 are right: the error is the root of (1/3 * 2/3 / 6), 19.2 %
    assert rest[:-1] == ["33.3", "%", "±", "19.2", "%", "33.3", "%", "0.0", "%"]


def test_several_tasks_have_a_mean(checkpoint: Path, evaluate: Any) -> None:
    tasks = "my_tasks.Letters, {class: my_tasks.Written, wanted: length}, my_tasks.Long"
    done = evaluate(checkpoint, "--tasks", tasks)
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[4][:4] == ["written", "6", "100.0", "%"]
    assert "ended" in rows[2]
    assert rows[4][-3:-1] == ["0.0", "%"]  # ended by itself
    assert rows[-1] == ["mean", "of", "3", "33.3", "%"]  # (0 + 1 + 0) / 3


def test_questions_that_do_not_fit_are_told(checkpoint: Path, evaluate: Any) -> None:
    done = evaluate(checkpoint, "--tasks", "my_tasks.Long")
    assert "questions longer than the context: only the end was read" in done.out


def test_a_checkpoints_files_are_hashed_once(
    checkpoint: Path, evaluate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def read_file(path: Path) -> record.FileRecord:
        hashed.append(path.name)
        return record.read_file(path)

    monkeypatch.setattr(manifest, "read_file", read_file)
    assert evaluate(checkpoint, "--tasks", "my_tasks.Letters").code == 0
    assert hashed.count("model.safetensors") == 1
    assert len(hashed) == len(set(hashed))


def test_json_is_one_object(checkpoint: Path, evaluate: Any) -> None:
    tasks = "my_tasks.Letters,{class: my_tasks.Written, wanted: length}"
    done = evaluate(checkpoint, "--json", "--tasks", tasks, "--limit", 4, "--split", "train")
    found = json.loads(done.out)
    assert (found["step"], found["stage"], found["precision"]) == (1200, "sft", "fp32")
    assert (found["split"], found["checkpoint"]) == ("train", str(checkpoint))
    letters, written = found["tasks"]
    assert letters["value"] == pytest.approx(0.5)
    assert letters["stderr"] == pytest.approx(0.25)
    assert (letters["count"], letters["ended"], written["value"]) == (4, None, 1.0)
    assert found["centered_mean"] == pytest.approx((0.25 + 1.0) / 2)
    assert letters["seconds"] > 0


def test_short_names_and_their_arguments(checkpoint: Path, evaluate: Any) -> None:
    task = "{class: arithmetic, digits: 1, validation: 3}"
    found = json.loads(evaluate(checkpoint, "--json", "--tasks", task, "-n", 2).out)
    assert [(task["name"], task["count"]) for task in found["tasks"]] == [("arithmetic", 3)]


def test_pass_at_k(checkpoint: Path, evaluate: Any) -> None:
    words = ("--tasks", "{class: my_tasks.Written, wanted: length},my_tasks.Letters")
    done = evaluate(checkpoint, *words, "--samples", 4, "--seed", 3)
    assert done.code == 0, done.err
    assert "pass@1" in done.out
    found = json.loads(evaluate(checkpoint, *words, "--samples", 4, "--json").out)
    assert list(found["tasks"][0]["at_k"]) == ["1", "2", "4"]
    assert found["tasks"][1]["at_k"] == {}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_computes_in_the_precision_of_training(
    tmp_path: Path, evaluate: Any, precision: str
) -> None:
    torch.manual_seed(0)
    model = GPT(tokenizer=Byte(), **SIZES)
    torch.nn.init.normal_(model.head.weight)
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 40)
    words = ("--json", "--bits-per-byte", tmp_path / "text.txt")
    found = json.loads(evaluate(save(model, tmp_path / precision, precision), *words).out)
    other = json.loads(evaluate(save(model, tmp_path / "fp32", "fp32"), *words).out)
    assert found["precision"] == precision
    assert (found["text"] == other["text"]) == (precision == "fp32")
    assert found["text"]["bits_per_byte"] == pytest.approx(other["text"]["bits_per_byte"], rel=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp32", "int8"])
def test_it_computes_in_what_is_asked_for(tmp_path: Path, evaluate: Any, precision: str) -> None:
    torch.manual_seed(0)
    model = GPT(tokenizer=Byte(), **{**SIZES, "width": 32})
    torch.nn.init.normal_(model.head.weight)
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 40)
    words = (save(model, tmp_path / "m"), "--json", "--bits-per-byte", tmp_path / "text.txt")
    found = json.loads(evaluate(*words, "--precision", precision).out)
    trained = json.loads(evaluate(*words).out)
    assert (found["precision"], trained["precision"]) == (precision, "fp32")
    assert (found["text"] == trained["text"]) == (precision == "fp32")
    wanted = trained["text"]["bits_per_byte"]
    assert found["text"]["bits_per_byte"] == pytest.approx(wanted, rel=0.05)


def test_bits_per_byte_of_a_file(checkpoint: Path, evaluate: Any, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcd" * 100)
    done = evaluate(checkpoint, "--bits-per-byte", tmp_path / "text.txt")
    assert done.out.splitlines()[-1] == "8.0056 bits a byte of 400 bytes"  # log2 of 257
    assert "validation" not in done.out


def test_bits_per_byte_of_what_the_stage_held_out(project: Any, monkeypatch: Any) -> None:
    assert project.train().code == 0
    logged = find_checkpoint(project.run).metrics["bits_per_byte"]
    monkeypatch.chdir(project.folder)
    words = ("--bits-per-byte", "--json", "--device", "cpu")
    found = json.loads(project.lmkit("eval", project.run, *words).out)
    assert found["text"]["bits_per_byte"] == pytest.approx(logged, rel=1e-6)
    monkeypatch.chdir(project.folder.parent)
    assert "text.txt: no such file" in project.lmkit("eval", project.run, *words).error


def test_it_finds_what_training_logged(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.folder / "my_tasks.py").write_text(TASKS)
    tasks = "[{class: my_tasks.Letters}, {class: my_tasks.Written, wanted: length}]"
    project.rewrite("evaluate: {tokens: 64}", f"evaluate: {{tasks: {tasks}, problems: 5}}")
    assert project.train().code == 0
    logged = find_checkpoint(project.run).metrics
    monkeypatch.chdir(project.folder)
    words = ("--tasks", tasks[1:-1], "--limit", 5, "--json", "--device", "cpu")
    found = json.loads(project.lmkit("eval", project.run, *words).out)
    assert [task["name"] for task in found["tasks"]] == ["letters", "written"]
    for task in found["tasks"]:
        assert task["value"] == logged[task["name"]]
        assert task["stderr"] == logged[f"{task['name']}_stderr"]


def test_a_strangers_data_is_not_opened(tmp_path: Path, evaluate: Any) -> None:
    model = GPT(tokenizer=Byte(), **SIZES)
    stage = {"name": "sft", "data": {"class": "subprocess.Popen", "args": "x"}, "validation": None}
    place = save(model, tmp_path / "evil", stages=[stage])
    assert "read by subprocess.Popen" in evaluate(place, "--bits-per-byte").error
    unknown = save(model, tmp_path / "other", stages=[])
    assert "does not say what it was trained on" in evaluate(unknown, "--bits-per-byte").error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is nothing to measure; name tasks"),
        (["--tasks", "gsm8"], "--tasks: there is no task 'gsm8'; did you mean 'gsm8k'?"),
        (["--tasks", "nothing"], "--tasks: there is no task 'nothing'; there are arithmetic"),
        (["--tasks", "my_tasks.Lettres"], "--tasks: my_tasks has no 'Lettres'; did you mean"),
        (["--tasks", "{class: arithmetic, digit: 3}"], "takes no 'digit'; did you mean 'digits'?"),
        (["--tasks", "{class: arithmetic"], "--tasks: "),
        (["--tasks", "lmkit.text.Byte"], "--tasks: lmkit.text.Byte is no task"),
        (["--tasks", "my_tasks.Letters", "--limit", "0"], "--limit: it must be 1 or more, not 0"),
        (["--tasks", "my_tasks.Letters", "--batch", "x"], "--batch: it must be 1 or more, not x"),
        (["--tasks", "my_tasks.Written", "-t", "-1"], "--temperature: temperature is -1.0"),
        (["--tasks", "my_tasks.Written", "--samples", "2", "-t", "0"], "--samples: 2 samples at"),
        (["--tasks", "{class: arithmetic, validation: 0}"], "no problem in 'validation'"),
        (["--bits-per-byte", "gone.txt"], "gone.txt: no such file"),
        (["--bits-per-byte", "--precision", "fp16"], "invalid choice: 'fp16' (choose from"),
    ],
)
def test_what_cannot_be_measured(
    checkpoint: Path, evaluate: Any, words: list[str], said: str
) -> None:
    done = evaluate(checkpoint, *words)
    assert done.code == 2
    assert said in done.error


def test_two_ranks_find_what_one_finds(checkpoint: Path, evaluate: Any) -> None:
    words = ["eval", str(checkpoint), "--json", "--device", "cpu", "--batch", "2", "--tasks"]
    words.append("{class: my_tasks.Written, wanted: length},my_tasks.Letters")
    one = json.loads(evaluate(*words[1:]).out)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "lmkit", *words],
            env={**common, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    said = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert said[1] == ""
    two = json.loads(said[0])
    for found in (one, two):
        for task in found["tasks"]:
            del task["seconds"]
    assert two == one


def test_core_is_measured_from_a_folder(checkpoint: Path, evaluate: Any, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "eval_data").mkdir(parents=True)
    task = {"label": "twins", "dataset_uri": "t.jsonl", "icl_task_type": "schema",
            "num_fewshot": [0]}  # fmt: skip
    (bundle / "core.yaml").write_text(json.dumps({"icl_tasks": [task]}))
    items = [{"context_options": ["x", "y"], "continuation": "z", "gold": n % 2} for n in range(4)]
    (bundle / "eval_data" / "t.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    (bundle / "eval_meta_data.csv").write_text("Eval Task,Random baseline\ntwins,50\n")
    done = evaluate(checkpoint, "--core", bundle)
    assert done.code == 0, done.err
    # what is equally likely is the first one: right every other time, which is chance
    assert done.out.splitlines()[-1].startswith("CORE 0.0000 ± ")
    found = json.loads(evaluate(checkpoint, "--json", "--core", bundle, "--limit", 2).out)
    assert found["core"]["tasks"][0]["count"] == 2
    missing = evaluate(checkpoint, "--core", tmp_path / "none")
    assert missing.code == 2
