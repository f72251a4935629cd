from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lmkit.errors import ConfigError, LMKitError
from lmkit.evals import execution
from lmkit.evals.execution import Limits, Verdict, run_tests
from lmkit.evals.trial import supervisor

TESTS = "assert double(3) == 6\nassert double([1]) == [1, 1]\n"
RIGHT = "def double(x):\n    return x + x\n"
WRONG = "def double(x):\n    return None\n"


def verdict(program: str, tests: str = TESTS, **limits: float) -> Verdict:
    limits = {"wall_seconds": 120.0, **limits}  # on a busy machine a start may take long
    return run_tests(program, tests, "double", limits=Limits(**limits))  # type: ignore[arg-type]


def test_a_right_program_passes() -> None:
    assert verdict(RIGHT) == Verdict("passed")


def test_a_wrong_answer_fails_and_the_line_is_told() -> None:
    found = verdict("def double(x):\n    return 2 * x if x == 3 else 0\n")
    assert found.status == "failed"
    assert found.reason == "AssertionError in the tests' line 2: assert double([1]) == [1, 1]"


def test_an_answer_that_the_tests_cannot_use_fails() -> None:
    found = verdict(WRONG, "assert len(double(1)) == 2")
    assert found.status == "failed"
    assert "has no len()" in found.reason


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def double(x:\n", "SyntaxError: '(' was never closed in the program's line 1"),
        ("def halve(x):\n    pass", "NameError: the program has no function 'double'"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def double(x):\n    return x / 0", "ZeroDivisionError: division by zero"),
        ("def double(x):\n    assert x > 5", "AssertionError in the program's line 2"),
        ("def double(x):\n    return double(x)", "RecursionError"),
        ("def double(x):\n    return object()", "TypeError: a object is no plain data"),
        ("def double(x):\n    return input()", "EOFError"),
        ("import os\nos.kill(os.getpid(), 9)", "may not send a signal"),
        ("import signal\nsignal.raise_signal(11)", "killed by signal 11"),
        ("def double(x):\n    return 'x' * 2**23", "an answer of more than 4 MiB"),
    ],
)
def test_a_broken_program_is_an_error(program: str, reason: str) -> None:
    found = verdict(program)
    assert found.status == "error"
    assert reason in found.reason
    assert "\n" not in found.reason


def test_an_argument_that_is_no_plain_data_is_an_error_of_the_tests() -> None:
    found = verdict(RIGHT, "double(object())")
    assert found.status == "error"
    assert "the tests give an argument that cannot be sent: a object" in found.reason


def test_tests_that_cannot_be_run_are_an_error() -> None:
    found = verdict(RIGHT, "assert double(")
    assert found.status == "error"
    assert "the tests cannot be run: SyntaxError" in found.reason


# --- a verdict cannot be forged -------------------------------------------------------------------

EQUAL_TO_ALL = """
class Yes(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = None
def double(x): return Yes(0)
"""


@pytest.mark.parametrize("status", [0, supervisor.STATUS["passed"]])
@pytest.mark.parametrize("how", ["sys.exit", "os._exit"])
@pytest.mark.parametrize("where", ["", "def double(x): "])
def test_leaving_early_does_not_pass(status: int, how: str, where: str) -> None:
    assert verdict(f"import os, sys\n{where}{how}({status})").status == "error"


@pytest.mark.parametrize(
    "program",
    [
        EQUAL_TO_ALL,
        "import os\ndef double(x): [os.write(fd, b'passed\\n') for fd in (1, 2)]",
        "import builtins\nbuiltins.AssertionError = Exception\n" + WRONG,
        "import trial.supervisor as s\ns.judge = lambda *a: ('passed', '')\n" + WRONG,
        "import atexit, os\natexit.register(os._exit, 10)\n" + WRONG,
        "import sys\nsys.excepthook = sys.unraisablehook = lambda *a: None\n" + WRONG,
        # what it writes into the pipes that it holds are answers, and wrong ones
        "import os\ndef double(x):\n"
        "    for fd in range(3, 64):\n"
        "        try: os.write(fd, b'{\"value\": 6}\\n')\n"
        "        except OSError: pass",
        "import gc\ndef double(x):\n"
        "    texts = [o for o in gc.get_objects() if isinstance(o, dict) and 'tests' in o]\n"
        "    return x + x if any('double(3)' in str(o['tests']) for o in texts) else 0",
    ],
)
def test_no_trick_passes(program: str) -> None:
    assert verdict(program).status in ("failed", "error")


def test_the_tests_cannot_hold_back_a_timeout() -> None:
    tests = "try:\n    double(3)\nexcept BaseException:\n    pass"
    found = verdict("def double(x):\n    while True: pass", tests, wall_seconds=0.5)
    assert found.status == "timeout"


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "def double(x):\n    while True: pass",
        "import time\ndef double(x): time.sleep(60)",
        "import itertools\ndef double(x): return (0 for _ in iter(int, 1))",
        "import os, time\nos.closerange(0, 2)\ntime.sleep(60)",
    ],
)
def test_what_does_not_end_is_ended(program: str) -> None:
    assert verdict(program, wall_seconds=0.6).status == "timeout"


def test_processor_time_is_limited_even_if_the_signal_is_ignored() -> None:
    ignoring = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
    found = verdict(ignoring + "while True: pass", cpu_seconds=1, wall_seconds=250)
    assert found == Verdict("timeout", "used its 1 s of processor time")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS cannot limit memory")
@pytest.mark.parametrize(
    "program",
    [
        "x = bytearray(2**30)",
        "def double(x):\n    kept = []\n    while True: kept.append(bytes(2**20))",
        "x = []\nwhile True: x.append(x[:])",
    ],
)
def test_memory_is_limited(program: str) -> None:
    found = verdict(program, memory_bytes=2**27)
    assert found == Verdict("memory", "more than 128 MiB")


def test_memory_may_be_asked_for_in_vain() -> None:
    careful = "try: bytearray(2**40)\nexcept MemoryError: pass\n"
    assert verdict(careful + RIGHT).status == "passed"


def test_output_without_end_does_no_harm() -> None:
    loud = "import sys\nfor _ in range(2000): print('x' * 10000); sys.stderr.write('y' * 10000)\n"
    assert verdict(loud + RIGHT) == Verdict("passed")


def test_a_file_cannot_grow_without_end() -> None:
    program = "with open('big', 'wb') as file:\n    while True: file.write(bytes(2**20))\n"
    found = verdict(program, file_bytes=2**22)
    assert found.status == "error"
    assert "File too large" in found.reason


def test_open_files_are_limited() -> None:
    found = verdict("files = [open('/dev/null') for _ in range(100)]", open_files=32)
    assert "Too many open files" in found.reason


def test_limits_are_above_zero() -> None:
    with pytest.raises(ConfigError, match="cpu_seconds is 0"):
        Limits(cpu_seconds=0)


# --- what is left ---------------------------------------------------------------------------------


def alive(folder: Path) -> bool:
    """Whether a process is there that was started with this as its temporary folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(f"TMPDIR={folder}") in (process / "environ").read_bytes():
                return True
    return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_a_grandchild_does_not_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that gets past the wall; here there is none."""
    start = "import trial.confined as c; c.confine = lambda limits: None; "
    monkeypatch.setattr(execution, "_START", start + execution._START)
    monkeypatch.setattr(execution.tempfile, "tempdir", str(tmp_path))
    program = "import os\nos.posix_spawn('/bin/sh', ['sh', '-c', 'sleep 600; echo'], os.environ)\n"
    assert verdict(program + RIGHT) == Verdict("passed")
    assert eventually(lambda: not alive(tmp_path))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_program_does_not_outlive_lmkit(tmp_path: Path, number: int) -> None:
    code = f"""
import signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.modules["lmkit.evals"] = light = types.ModuleType("lmkit.evals")  # without torch
light.__path__ = [{os.path.dirname(execution.__file__)!r}]
from lmkit.evals.execution import Limits, run_tests
program = "open('begun', 'w').close(); import time; time.sleep(600)"
run_tests(program, "", "double", limits=Limits(wall_seconds=600))
"""
    caller = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=-1
    )
    with caller:
        assert eventually(lambda: any(tmp_path.glob("*/begun")))
        caller.send_signal(number)
        caller.wait(20)
    assert eventually(lambda: not alive(tmp_path))


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def test_threads_left_behind_do_not_hold_it_up() -> None:
    left = "import threading, time\nthreading.Thread(target=time.sleep, args=(10**6,)).start()\n"
    assert verdict(left + RIGHT) == Verdict("passed")


# --- what it sees ---------------------------------------------------------------------------------


def test_the_environment_is_not_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    program = "import os\nassert 'SECRET_TOKEN' not in os.environ\n"
    program += "assert os.path.samefile(os.environ['HOME'], os.getcwd())\n"
    assert verdict(program + RIGHT) == Verdict("passed")


def test_it_is_neither_main_nor_beside_lmkits_own_files() -> None:
    program = "assert __name__ == 'program'\nimport sys\nassert 'torch' not in sys.modules\n"
    program += "try: import suite\nexcept ImportError: pass\nelse: raise SystemExit\n"
    assert verdict(program + RIGHT) == Verdict("passed")


def test_installed_packages_are_there() -> None:
    program = "import numpy\ndef double(x): return numpy.float32(2 * x)\n"
    assert verdict(program, "assert double(1.5) == 3") == Verdict("passed")


def test_dataclasses_work_in_a_program() -> None:
    program = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    program += "@dataclass\nclass A:\n    x: int\ndef double(x): return A(2 * x).x\n"
    assert verdict(program, "assert double(3) == 6") == Verdict("passed")


def test_setup_is_there_for_both() -> None:
    program = "def double(x): return twice(x)"
    tests = "assert double(2) == twice(2) == 4"
    assert run_tests(program, tests, "double", setup="def twice(x): return 2 * x").status == (
        "passed"
    )


def test_chance_is_the_same_every_time() -> None:
    program = """
import random
def double(x): return [random.random(), list({'a', 'b', 'c', 'd', 'e', 'f', 'g'}), hash('x')]
"""
    reasons = {verdict(program, "raise ValueError(repr(double(1)))").reason for _ in range(3)}
    assert len(reasons) == 1
    program = "def double(x): return 0"
    tests = "import random\nraise ValueError(random.random())"
    assert verdict(program, tests) == verdict(program, tests)


def test_an_exception_reaches_the_tests_as_what_it_is() -> None:
    program = "def double(x): raise ValueError('x is odd') if x % 2 else KeyError(x)"
    tests = """
try: double(3)
except ValueError as error: assert 'x is odd' in str(error)
try: double(2)
except KeyError: pass
"""
    assert verdict(program, tests) == Verdict("passed")


# --- the caller -----------------------------------------------------------------------------------


def test_it_can_be_called_from_threads() -> None:
    programs = [RIGHT, WRONG, "x = " + "(" * 500, "raise SystemExit(10)"] * 2
    with ThreadPoolExecutor(4) as pool:
        statuses = [found.status for found in pool.map(verdict, programs)]
    assert statuses == ["passed", "failed", "error", "error"] * 2


def test_tests_that_hang_by_themselves_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_GRACE", 0.2)
    found = verdict(RIGHT, "while True: pass", wall_seconds=0.4)
    assert found.status == "timeout"


def test_a_killed_supervisor_is_an_error() -> None:
    """What a program could do that gets past the hook; here the tests do it."""
    found = verdict(RIGHT, "import os; os.kill(os.getpid(), 9)")
    assert found.status == "error"
    assert "the supervisor ended with -9" in found.reason


def test_where_nothing_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution.sys, "executable", "/no/such/python")
    with pytest.raises(LMKitError, match="/no/such/python: no program can be run here: No such"):
        verdict(RIGHT)
    monkeypatch.setattr(execution.tempfile, "tempdir", "/no/such/folder")
    with pytest.raises(LMKitError, match="^/no/such/folder.*: no program can be run here: No such"):
        verdict(RIGHT)


def test_windows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution.os, "name", "nt")
    with pytest.raises(LMKitError, match="on Linux and macOS only; use WSL"):
        verdict(RIGHT)
