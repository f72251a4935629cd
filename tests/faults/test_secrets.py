"""No secret leaves a run: not in an error, a traceback, a log, nor in any file that it writes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmkit.config import Experiment, differences, load_experiment
from lmkit.config.secrets import redact
from tests.cli.conftest import Project

PASSWORD = "correct-horse-battery"
TOKEN = "hf_" + "Ab1" * 12
SECRETS = {
    "HF_TOKEN": TOKEN,
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "DB_PASSWORD": PASSWORD,
    "MY_SERVER_KEY": "a key with spaces",
    "github_pat": "lowercase-name-of-a-pat",
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def shown(text: str) -> list[str]:
    """The secrets that can be read in it."""
    return [value for value in SECRETS.values() if value in text]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        *((f"it says {value!r}!", f"it says '${name}'!") for name, value in SECRETS.items()),
        ("https://me:pw@host/a", "https://***@host/a"),
        ("ftp://me@host/a", "ftp://***@host/a"),
        ("s3://key:se@cret@bucket/a", "s3://***@bucket/a"),
        ("https://h/a?token=abc&page=2", "https://h/a?token=***&page=2"),
        ("https://h/a?page=2&api_key=abc#x", "https://h/a?page=2&api_key=***#x"),
        ("https://h/a?X-Amz-Signature=abc&X-Amz-Date=1", "https://h/a?X-Amz-Signature=***&X-Amz-Date=1"),
        ("https://h/a?sig=abc%2F", "https://h/a?sig=***"),
        ("'Authorization': 'Bearer abc.def'", "'Authorization': 'Bearer ***'"),
        ("hf_" + "x" * 30, "***"),
        ("sk-proj-" + "x" * 30, "***"),
        ("ghp_" + "x" * 36, "***"),
        ("github_pat_" + "x" * 40, "***"),
        ("glpat-" + "x" * 20, "***"),
        ("xoxb-123456789012", "***"),
        ("AKIA" + "A" * 16, "***"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "***"),
    ],
)  # fmt: skip
def test_a_secret_is_taken_out_of_a_text(text: str, left: str) -> None:
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/datasets/openai/gsm8k",
        "/home/me/tokenizer_key/run",
        "experiments/x.yaml:7: a token or a rank comes twice",
        "basic arithmetic, bearer of bad news",
        "lmkit_models.gpt.GPT takes no 'token'",
        "user@host: an address without a scheme",
        "sk-learn and hf_hub_download",
    ],
)
def test_what_is_none_stays(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "experiments")  # no name of a secret
    monkeypatch.setenv("USE_KEY", "true")  # too short a value
    monkeypatch.setenv("SSL_KEY", os.getcwd())  # a path
    assert redact(text + os.getcwd()) == text + os.getcwd()


def test_in_plain_data_a_keys_name_tells() -> None:
    data = {"a": [{"password": "x", "token": "y"}], "api_key": "z", "tokens": "1M",
            "pad_token": "<|pad|>", "key": 3, "secret": None, "url": "https://a:b@c/"}  # fmt: skip
    assert redact(data) == {
        "a": [{"password": "***", "token": "***"}], "api_key": "***", "tokens": "1M",
        "pad_token": "<|pad|>", "key": 3, "secret": None, "url": "https://***@c/"}  # fmt: skip


# --- the doors ------------------------------------------------------------------------------------

WAYS = [
    ["train", f"no/{TOKEN}.yaml"],
    ["check", "tiny.yaml", f"seed={PASSWORD}"],
    ["check", "tiny.yaml", f"stages.0.data.path=https://me:{PASSWORD}@host/x"],
    ["check", "tiny.yaml", f"stages.0.init_from=s3://key:{PASSWORD}@bucket/x"],
    ["check", "tiny.yaml", "model={class: plug.Fails}"],
    ["check", "tiny.yaml", "model={class: plug.Warns}"],
    ["check", "tiny.yaml", "model={class: plug.Table}", f"name={TOKEN}"],
    ["check", "tiny.yaml", "model={class: plug.Table}", f"name={TOKEN}", "--json"],
    ["generate", f"https://me:{PASSWORD}@host/{TOKEN}"],
    ["describe", f"{TOKEN}.x"],
    [PASSWORD],
]
PLUG = """
import logging, os, warnings
from my_model import Table


class Fails(Table):
    def __init__(self, tokenizer):
        raise ValueError("no entry with " + os.environ["DB_PASSWORD"])


class Warns(Table):
    def __init__(self, tokenizer):
        logging.getLogger("plug").warning("logged in with %s", os.environ["HF_TOKEN"])
        super().__init__(tokenizer)
"""


@pytest.mark.parametrize("row", range(len(WAYS)))
def test_an_error_or_a_log_shows_none(
    project: Project, row: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(project.folder)
    (project.folder / "plug.py").write_text(PLUG)
    outcome = project.lmkit(*WAYS[row])
    assert shown(outcome.out + outcome.err) == []
    assert outcome.err or outcome.out
    sys.modules.pop("plug", None)


def test_what_is_logged_shows_none(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.lmkit("list")  # which sets logging up
    handler = logging.StreamHandler()
    for each in logging.getLogger().handlers:
        for known in each.filters:
            handler.addFilter(known)
    record = logging.LogRecord("x", logging.WARNING, "", 1, "with %s", (TOKEN,), None)
    handler.handle(record)
    assert "with $HF_TOKEN" in capsys.readouterr().err


def test_the_traceback_of_a_bug_shows_none(tmp_path: Path) -> None:
    code = (
        "import os, lmkit.cli.listing as l\n"
        "from lmkit.cli import main\n"
        "def run(_): raise RuntimeError('https://me:pw@host ' + os.environ['HF_TOKEN'])\n"
        "l.run = run\n"
        "main(['list'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "RuntimeError: https://***@host $HF_TOKEN" in done.stderr
    assert shown(done.stderr) == []


def test_no_file_of_a_run_shows_one_and_the_run_goes_on(project: Project) -> None:
    """Even where the experiment has one written out, and where it is another at the resume."""
    (project.folder / "plug.py").write_text(
        "from my_model import Table\n"
        "class Plug(Table):\n"
        "    def __init__(self, tokenizer, address: str = '', api_key: str = ''):\n"
        "        super().__init__(tokenizer)\n"
    )
    words = f"address: 'https://me:{PASSWORD}@host/x?token=abcd', api_key: {TOKEN}"
    project.rewrite("{class: my_model.Table}", f"{{class: plug.Plug, {words}}}")
    assert project.train().code == 0
    assert project.lmkit("report", project.run).code == 0
    files = [path for path in project.run.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes().decode("latin-1")
        assert shown(content) == [], path
        assert "abcd" not in content or path.suffix in (".safetensors", ".0"), path
    saved = json.loads((project.run / "experiment.json").read_text())
    assert saved["model"]["address"] == "https://***@host/x?token=***"
    assert saved["model"]["api_key"] == "***"
    project.rewrite("token=abcd", "token=rotated")
    assert project.train("stages.0.steps=6").code == 0
    sys.modules.pop("plug", None)


def test_what_a_secret_is_changes_no_experiment(project: Project) -> None:
    one = load_experiment(project.yaml, [f"model.address=https://a:{PASSWORD}@host/"])
    two = load_experiment(project.yaml, ["model.address=https://a:other@host/"])
    elsewhere = load_experiment(project.yaml, ["model.address=https://a:other@elsewhere/"])
    assert differences(one, two) == []
    assert differences(one, elsewhere) == ["model.address"]
    assert Experiment.from_dict(one.to_dict()).to_dict() == one.to_dict()


def test_the_environment_is_told_without_variables() -> None:
    from lmkit.checkpoints.environment import describe_environment

    told: dict[str, Any] = describe_environment()
    assert shown(json.dumps(told)) == []
