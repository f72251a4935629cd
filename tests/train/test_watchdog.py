"""A process in which nothing happens ends with stacks; one that was stopped, or works, goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path


def watched(body: str, file: Path, limit: float = 0.4) -> subprocess.Popen[str]:
    """A process that watches itself while it does `body`; it imports no torch."""
    program = f"""
        import sys, time
        from pathlib import Path
        from lmkit.train.watchdog import Watchdog
        def stalled_loader():
            time.sleep(60)
        with Watchdog({limit}, Path({str(file)!r})) as watchdog:
            print("ready", flush=True)
            {body}
        sys.exit(7)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_bites_and_tells_where_the_process_hung(tmp_path: Path) -> None:
    with watched("watchdog.beat('step 3'); stalled_loader()", tmp_path / "stacks.txt") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "in stalled_loader" in said
    assert "in stalled_loader" in (tmp_path / "stacks.txt").read_text()
    last = said.splitlines()[-1]
    assert last.startswith("error: nothing has happened for 0.4 s: it hangs in step 3; ")
    assert "stacks.txt says where each thread is" in last


def test_a_full_disk_does_not_keep_it(tmp_path: Path) -> None:
    with watched("stalled_loader()", tmp_path / "gone" / "stacks.txt") as process:
        process.communicate(timeout=60)
    assert process.returncode == 5


def test_one_that_works_and_one_that_was_stopped_go_on(tmp_path: Path) -> None:
    body = "[(time.sleep(0.01), watchdog.beat()) for _ in range(120)]"
    with watched(body, tmp_path / "stacks.txt", limit=1.0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 7
    assert not (tmp_path / "stacks.txt").exists()
