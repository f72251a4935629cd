"""Faults of ranks, of torchrun and of nodes: all end soon, the first to fail is named once, and the
same command goes on bit for bit.

Real processes, signals and gloo, started by torchrun's agent (see launcher.py); torchrun's command
line where it is itself what is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lmkit.lab.equal_runs import compare_runs
from tests.faults.conftest import count

HERE = Path(__file__).parent
# seconds, counts: so that a test need not wait for what a network is granted
IMPATIENT = {
    "lmkit.ranks.pulse.BEAT": 0.1,
    "lmkit.ranks.pulse.SILENCE": 50,
    "lmkit.ranks.pulse.GRACE": 10,
    "lmkit.ranks.launch.TELLING": 1.5,
}
SOON = 120  # seconds that anything may take on a machine that is busy with other tests


class Started:
    """An agent with its ranks."""

    def __init__(self, launcher: Launcher, request: dict[str, Any]) -> None:
        self.launcher = launcher
        self.folder = Path(request["folder"])
        self.pid = launcher.ask({"start": request})

    def wait(self) -> int:
        """The agent's exit code: 0 if all ranks have ended well, else 1."""
        return self.launcher.ask({"wait": self.pid})

    def code(self, rank: int | str, attempt: int = 0) -> int | None:
        """A rank's exit code; None of one that was killed."""
        file = self.folder / f"code-{attempt}-{rank}"
        return int(file.read_text()) if file.exists() else None

    def said(self, attempt: int = 0) -> list[str]:
        """What the ranks have said of their end, line by line."""
        files = sorted(self.folder.glob(f"said-{attempt}-*"))
        lines = [line for file in files for line in file.read_text().splitlines()]
        assert "Traceback" not in "".join(lines) or "TypeError" in "".join(lines), lines
        return [line for line in lines if line.startswith("error:")]

    def process(self, rank: int | str, attempt: int = 0) -> int:
        """A rank's process id, as soon as there is one."""
        file = self.folder / f"pid-{attempt}-{rank}"
        wait_until(lambda: file.exists() and file.read_text() != "")
        return int(file.read_text())


class Launcher:
    """launcher.py, which has torch imported."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "launcher.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, order: dict[str, Any]) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, folder: Path, *, ranks: int = 2, fault: str = "", **request: Any) -> Started:
        """`lmkit train tiny.yaml` in `folder`."""
        request.setdefault("command", ["train", "tiny.yaml"])
        environments = request.setdefault("environments", {})
        environments.setdefault("all", {}).update({"FAULT": fault} if fault else {})
        request = {"folder": str(folder), "ranks": ranks, "patch": IMPATIENT, **request}
        return Started(self, request)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def launcher(environment: dict[str, str]) -> Iterator[Launcher]:
    launcher = Launcher(environment)
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def make(make_experiment: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Lays an experiment out in a folder that does not exist yet, and gives the folder back."""

    def make(folder: Path) -> Path:
        file = make_experiment(folder)
        shutil.copy(HERE / "faulty.py", folder)
        yaml = file.read_text().replace("slow.Slow", "faulty.Faulty").replace(str(folder), ".")
        yaml = yaml.replace("steps: 8", "steps: 5").replace(
            'evaluate: {every: 3, tokens: 128, samples: ["one"], max_new_tokens: 4}',
            "evaluate: {every: 3, tokens: 128}",
        )
        file.write_text(yaml)
        return folder

    return make


@pytest.fixture
def folder(tmp_path: Path, make: Callable[[Path], Path]) -> Path:
    return make(tmp_path / "here")


@pytest.fixture(scope="module")
def straight(
    launcher: Launcher, make: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run of two ranks that nobody disturbed."""
    folder = make(tmp_path_factory.mktemp("straight") / "here")
    run = launcher.start(folder)
    assert run.wait() == 0, run.said()
    return folder / "run"


def wait_until(condition: Callable[[], bool], seconds: float = SOON) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def lives(process: int) -> bool:
    """Whether there is such a process, that is no mere entry in the kernel's table."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def assert_equal(run: Path, other: Path) -> None:
    for each in compare_runs(run, other):
        assert each.equal, (each.what, each.differences)


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def is_open(endpoint: str) -> bool:
    host, _, port = endpoint.partition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


# --- one rank ends ----------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(
    rank: int, launcher: Launcher, folder: Path, straight: Path
) -> None:
    kills = count(1, 25)
    for kill in range(kills):
        run = launcher.start(folder, fault=f"{rank}:{kill % 3 + 1}:kill")
        assert run.wait() == 1
        other = run.code(1 - rank)
        said = run.said()
        assert (other, len(said)) == (5, 1), said
        assert said[0].startswith(f"error: rank {rank} of 2 failed first: it was killed"), said
        for file in folder.glob("*-0-*"):
            file.unlink()
    run = launcher.start(folder)
    assert run.wait() == 0, run.said()
    assert_equal(folder / "run", straight)
    print(f"rank {rank} killed: {kills}, all ended, bit-equal afterwards")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("broken", "rank 1 of 2: step 1: faulty.Faulty fails in training: TypeError: a bug"),
        ("leave", "rank 1 of 2 failed first: it was killed"),
    ],
)
def test_a_rank_that_raises_or_leaves_ends_all(
    kind: str, words: str, launcher: Launcher, folder: Path
) -> None:
    run = launcher.start(folder, fault=f"1:2:{kind}")
    assert run.wait() == 1
    assert run.code(0) == 5
    said = run.said()
    assert len(said) == 1  # the other rank is silent
    assert words in said[0]
    if kind == "broken":  # its traceback is there, once
        text = (folder / "said-0-1").read_text()
        assert text.count("\nTypeError: a bug of this model") == 1


def test_a_stopped_rank_is_noticed_by_its_silence(launcher: Launcher, folder: Path) -> None:
    run = launcher.start(folder, fault="1:2:stop")
    wait_until(lambda: run.code(0) is not None or not lives(run.process(0)))
    os.kill(run.process(1), signal.SIGKILL)  # or torchrun does, after half a minute
    assert run.wait() == 1
    said = run.said()
    assert len(said) == 1
    assert "rank 1 of 2 failed first: not heard of for 5 s: killed, stopped or cut off" in said[0]


@pytest.mark.skipif(not count(0, 1), reason="the silence that a network is granted: make nightly")
def test_a_stopped_rank_is_noticed_by_its_silence_as_long_as_that_really_is(
    launcher: Launcher, folder: Path
) -> None:
    run = launcher.start(folder, fault="1:2:stop", patch={})
    wait_until(lambda: run.code(0) is not None or not lives(run.process(0)))
    os.kill(run.process(1), signal.SIGKILL)
    assert run.wait() == 1
    assert "not heard of for 20 s: killed, stopped or cut off" in run.said()[0]


def test_a_rank_that_hangs_alive_ends_by_the_timeout(launcher: Launcher, folder: Path) -> None:
    command = ["train", "tiny.yaml", "runner.collective_timeout=2s"]
    run = launcher.start(folder, fault="1:2:sleep", command=command)
    assert run.wait() == 1
    said = run.said()
    assert run.code(0) == 5
    assert len(said) == 1
    assert "rank 0 of 2: lost another rank" in said[0]
    assert "Timed out" in said[0]
    assert not lives(run.process(1))


def test_a_full_disk_at_rank_0_stops_all(launcher: Launcher, folder: Path) -> None:
    run = launcher.start(folder, environments={"0": {"LMKIT_FAULT": "save.write:1:enospc"}})
    assert run.wait() == 1
    assert (run.code(0), run.code(1)) == (74, 5)
    said = run.said()
    assert len(said) == 1
    assert said[0].startswith("error: rank 0 of 2: ")


# --- ranks that are not alike -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("settings", "stages.pretrain.steps"),
        ("data", "the data of stage sft"),
        ("code", "the module faulty"),
    ],
)
def test_ranks_with_other_settings_data_or_code_are_named(
    kind: str, name: str, launcher: Launcher, folder: Path, make: Callable[[Path], Path]
) -> None:
    elsewhere = make(folder.parent / "elsewhere")  # what a second machine has in its place
    words = ["stages.pretrain.steps=4"] if kind == "settings" else []
    if kind == "data":
        sums = (elsewhere / "sums.jsonl").read_text()
        (elsewhere / "sums.jsonl").write_text(sums.replace('"58"', '"59"'))
    if kind == "code":
        with (elsewhere / "faulty.py").open("a") as code:
            code.write("# edited here only\n")
    run = launcher.start(
        folder,
        command=["train", "tiny.yaml", f"out={folder / 'run'}"],
        words={"1": words},
        folders={"1": str(elsewhere)},
    )
    assert run.wait() == 1
    assert (run.code(0), run.code(1)) == (5, 5)
    assert run.said() == [
        f"error: rank 1 of 2 failed first: its {name} differ from rank 0's; "
        "start all ranks with the same files"
    ]
    assert not list((folder / "run").rglob("manifest.json"))


def test_a_rank_that_fails_before_the_first_step_is_heard(
    launcher: Launcher, folder: Path, make: Callable[[Path], Path]
) -> None:
    elsewhere = make(folder.parent / "elsewhere")
    (elsewhere / "sums.jsonl").unlink()
    run = launcher.start(
        folder,
        command=["train", "tiny.yaml", f"out={folder / 'run'}"],
        folders={"1": str(elsewhere)},
    )
    assert run.wait() == 1
    assert run.code(1) == 2
    said = run.said()
    assert len(said) == 1
    assert said[0].startswith("error: rank 1 of 2: ")
    assert "sums.jsonl" in said[0]


# --- torchrun starts them again ---------------------------------------------------------------


def test_torchrun_starts_again_after_a_kill_and_the_run_ends_bit_equal(
    launcher: Launcher, make: Callable[[Path], Path], tmp_path: Path, straight: Path
) -> None:
    trials = count(1, 20)
    for trial in range(trials):
        folder = make(tmp_path / str(trial))
        run = launcher.start(folder, restarts=1, fault=f"{trial % 2}:{trial % 6 + 1}:kill")
        assert run.wait() == 0, (run.said(), run.said(1))
        assert (run.code(0, 1), run.code(1, 1)) == (0, 0)
        assert_equal(folder / "run", straight)
    print(f"restarts after a kill, all bit-equal: {trials}")


def test_torchrun_starts_again_with_fewer_rows_after_memory_ran_out(
    launcher: Launcher, folder: Path
) -> None:
    run = launcher.start(folder, restarts=1, fault="1:4:memory")
    assert run.wait() == 0, (run.said(), run.said(1))
    assert run.code(1) == 2
    short = "error: rank 1 of 2: 2 rows no longer fit into the memory of cpu"
    assert run.said() == [f"{short}; the same command goes on with 1"]
    assert (run.code(0, 1), run.code(1, 1)) == (0, 0)
    said = (folder / "said-1-0").read_text()
    assert said.count("rows at once: 1; with more the memory ran out\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
@pytest.mark.parametrize("trial", range(count(1, 5)))
def test_a_killed_torchrun_leaves_no_orphans(
    trial: int, folder: Path, environment: dict[str, str]
) -> None:
    command = ["--standalone", "--nproc_per_node=2", "-m", "lmkit", "train", "tiny.yaml"]
    torchrun = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *command],
        cwd=folder,
        env={**environment, "FAULT": "1:7:sleep"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = folder / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0)
    ranks = children(torchrun.pid)
    assert len(ranks) == 2
    torchrun.kill()
    torchrun.wait()
    wait_until(lambda: not any(map(lives, ranks)), seconds=2)


def children(process: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if entry.read_text().rpartition(")")[2].split()[1] == str(process):
                found.append(int(entry.parent.name))
    return found


# --- two nodes --------------------------------------------------------------------------------


@pytest.mark.parametrize("trial", range(count(1, 5)))
def test_a_node_that_is_lost_and_brought_back_goes_on(
    trial: int, launcher: Launcher, folder: Path, straight: Path
) -> None:
    nodes: dict[str, Any] = {"nodes": [2, 2], "ranks": 1, "restarts": 3, "id": "two"}
    nodes["endpoint"] = f"127.0.0.1:{free_port()}"
    # else a node that is brought back waits for an address that was told once (torch 2.13)
    nodes["agent"] = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    first = launcher.start(folder, node="a", **nodes)
    wait_until(lambda: is_open(nodes["endpoint"]))  # who comes first is what all others hang on
    lost = launcher.start(folder, node="b", fault="any:3:node", **nodes)
    assert lost.wait() == -signal.SIGKILL
    back = launcher.start(folder, node="c", **nodes)
    assert first.wait() == 0
    assert back.wait() == 0
    assert_equal(folder / "run", straight)
