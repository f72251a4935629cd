"""A process in which nothing happens ends with stacks; one that was stopped, or works, goes on."""

from __future__ import annotations

import os
import signal
import socket
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


# two ranks, forked when torch is imported: one hangs, the other waits for it in a collective
TWO = """
import os, sys, time
from pathlib import Path
from lmkit.ranks import launch, pulse
from lmkit.ranks.world import World
from lmkit.train.watchdog import Watchdog
pulse.BEAT, launch.TELLING = 0.1, 1.0
child = os.fork()
rank = 0 if child else 1
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
os.dup2(os.open(f"{sys.argv[1]}/said-{rank}", os.O_WRONLY | os.O_CREAT), 2)
world = World.from_environment("cpu")
try:
    with world.connected():
        if rank == 1:
            with Watchdog(0.4, Path(sys.argv[1]) / "stacks.txt", world.tell):
                time.sleep(60)
        world.barrier()
except Exception as error:
    print(f"error: {error}", file=sys.stderr)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == error.exit_code == 5
"""


def test_the_other_ranks_hear_of_it(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    subprocess.run(
        [sys.executable, "-c", TWO, tmp_path],
        env={**os.environ, **place, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=120,
    )
    hung = "nothing has happened for 0.4 s: it hangs in the start; "
    said = [(tmp_path / f"said-{rank}").read_text().splitlines() for rank in range(2)]
    assert said[1][-1].startswith(f"error: rank 1 of 2: {hung}")
    assert [line for line in said[0] if line.startswith("error")] == said[0]
    assert said[0][0].startswith(f"error: rank 1 of 2 failed first: {hung}")
