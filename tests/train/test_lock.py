"""One process at a time works on a run; a dead one does not keep others out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmkit.errors import CheckpointError
from lmkit.train.lock import run_lock

HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(f"process {os.getpid()} on here")
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_the_run(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, tmp_path / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(CheckpointError, match=f"process {other.pid} on here") as caught:
            run_lock(tmp_path).__enter__()
        assert caught.value.exit_code == 3
        other.kill()
    with run_lock(tmp_path):  # the kernel let go
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()


def test_the_lock_ends_with_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with run_lock(tmp_path / "run"), pytest.raises(CheckpointError):
            run_lock(tmp_path / "run").__enter__()
