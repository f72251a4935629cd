"""What a run was made with is told; what is secret is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lmkit
from lmkit.checkpoints.environment import describe_environment


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_versions_and_machine_are_told() -> None:
    found = describe_environment()
    assert found["lmkit"] == lmkit.__version__
    assert found["packages"]["torch"] == torch.__version__
    assert found["python"] == sys.version.split()[0]
    assert found["threads"] == torch.get_num_threads()
    assert {"platform", "hostname", "device", "cpus", "deterministic"} <= found.keys()
    assert 10**7 < found["peak_memory"]["host"] < 10**12, "bytes"


def test_outside_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_environment()["git"] is None


@pytest.mark.parametrize("dirty", [False, True])
def test_the_commit_is_told_and_whether_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dirty: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    if dirty:
        (tmp_path / "a").write_text("2")
    assert describe_environment()["git"] == {"commit": commit, "dirty": dirty}


def test_no_secret_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-in-the-environment")
    monkeypatch.setattr(sys, "argv", ["lmkit", "--set", "key=canary-in-the-arguments"])
    assert "canary" not in json.dumps(describe_environment())
