"""execution: a program that a model wrote, run against tests in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lmkit.errors import ConfigError, LMKitError
from lmkit.evals.trial import supervisor

Status = Literal["passed", "failed", "timeout", "memory", "error"]
_STATUSES: dict[int, Status] = {number: name for name, number in supervisor.STATUS.items()}  # type: ignore[misc]
_START = "from trial.supervisor import main; main()"
_GRACE = 5.0  # seconds for the supervisor to start and to clean up


@dataclass(frozen=True)
class Limits:
    """What a program may use; one that uses more is ended.

    Args:
        cpu_seconds: of processor time. It decides, since it is the same on a busy machine.
        wall_seconds: until it must have answered every test.
        memory_bytes: of address space, its threads' stacks included.
        file_bytes: of a single file.
        open_files: at once.
        processes: of its user, all others counted: a bound for what starts them behind Python's
            back. Python's own ways to start one are refused.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 15.0
    memory_bytes: int = 512 * 2**20
    file_bytes: int = 16 * 2**20
    open_files: int = 64
    processes: int = 4096

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if value <= 0:
                raise ConfigError(f"{key} is {value}", hint="it must be above 0", key=key)


@dataclass(frozen=True)
class Verdict:
    """How a program did.

    Attributes:
        status: `passed`: all tests held. `failed`: one did not. `timeout`, `memory`: over a limit.
            `error`: it raised, left or died, or the tests could not be run at all.
        reason: one line about it; empty where it passed.
    """

    status: Status
    reason: str = ""


def run_tests(
    program: str, tests: str, entry_point: str, *, setup: str = "", limits: Limits = Limits()
) -> Verdict:
    """Whether the function that a program defines does what the tests ask of it.

    The program runs in a fresh interpreter: in a temporary folder that is removed afterwards,
    without standard input, its output thrown away, with an environment of its own, hash seed and
    random seed fixed, within `limits`, in a process group that is killed at the end. The tests run
    in another process and call the function through a pipe, so that no exit, print, exception or
    clever object of the program can pass for a right answer (see `trial`). Arguments and
    results travel as plain data: what a function does to its arguments is not seen by the tests.

    **This is no sandbox.** It stops accidents, a model that games its tests, and the escapes that
    tests/faults/test_escapes.py tries; not an enemy. The program has the rights of the user: it can
    read every file that the user can read. Python's own ways to start a process, to send a signal,
    to use the network and to change a file outside its folder are refused by an audit hook, and so
    is ctypes; an installed C extension can do all of it, and so can bytecode that makes Python
    itself err. How many files it writes, and that the machine is slow meanwhile, nothing limits.
    For programs that may mean harm use a container or a virtual machine without a network.

    On macOS memory has no limit (the system refuses to set one). For root `processes` has no
    effect: Linux exempts root. Windows has none of the means, so nothing is run there. Threads may
    call this side by side.

    Args:
        program: its source. It is not `__main__`.
        tests: their source; they find the function under its name and raise if it is wrong.
        entry_point: that name.
        setup: source that is run before both of them: imports, helpers.

    Raises:
        LMKitError: no interpreter can be started here, or there is no room for its folder.
    """
    if os.name != "posix":
        raise LMKitError(
            "programs that a model wrote are run on Linux and macOS only", hint="use WSL"
        )
    job = {
        "program": program,
        "tests": tests,
        "entry_point": entry_point,
        "setup": setup,
        "limits": asdict(limits),
        "path": [each for each in sys.path if each.endswith(("site-packages", "dist-packages"))],
    }
    try:
        with tempfile.TemporaryDirectory(prefix="lmkit-", ignore_cleanup_errors=True) as folder:
            return _supervised(json.dumps(job).encode(), folder, limits.wall_seconds + _GRACE)
    except OSError as error:
        what = f"no program can be run here: {error.strerror or error}"
        raise LMKitError(what, at=error.filename) from error


def _supervised(job: bytes, folder: str, seconds: float) -> Verdict:
    # -S: without it the start takes 35 ms instead of 12. Not -I, which would ignore
    # PYTHONHASHSEED: the order of a set must be the same at every run. What else -I does is done
    # by the environment, which is not the user's, and by the supervisor, which mends its path.
    command = [sys.executable, "-S", "-B", "-c", _START]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            said, errors = process.communicate(job, timeout=seconds)
        except subprocess.TimeoutExpired:
            return Verdict("timeout", f"the tests took more than {seconds:g} s")
        finally:
            if process.returncode is None:
                _end(process)
    status = _STATUSES.get(process.returncode)
    if status is None:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        return Verdict("error", f"the supervisor ended with {process.returncode} {last}".rstrip())
    return Verdict(status, said.decode(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a supervisor whose tests hang, or that is in the way of an interrupt."""
    assert process.stdout is not None
    process.stdout.close()  # it sees that, and ends the program before itself
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, supervisor.SIGKILL)


def _environment(folder: str) -> dict[str, str]:
    """Nothing of the user's, but what an interpreter may need to find its libraries."""
    needed = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {
        **{name: os.environ[name] for name in needed if name in os.environ},
        "PATH": "/usr/bin:/bin",
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).parent),  # where it finds `trial`
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",  # of a numerical library, which would reserve memory for each core
    }
