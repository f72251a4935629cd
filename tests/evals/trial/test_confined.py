"""What a program is refused, and what it may do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lmkit.evals import execution
from lmkit.evals.execution import Limits, Verdict, run_tests

RIGHT = "def double(x):\n    return x + x\n"


def verdict(program: str, tests: str = "assert double(3) == 6") -> Verdict:
    return run_tests(program, tests, "double", limits=Limits(wall_seconds=120))


TRY = """
def double(acts):
    told = []
    for act in acts:
        try: exec(act, {})
        except Exception as error: told.append(str(error))
        else: told.append('done')
    return told
"""


def trying(acts: Sequence[str], expected: str) -> Verdict:
    """Passed if each of these acts of a program ends in an exception that says so."""
    tests = f"""
acts = {list(acts)!r}
for act, said in zip(acts, double(acts)):
    assert {expected!r} in said, (act, said)
"""
    return verdict(TRY, tests)


def test_no_process_is_started() -> None:
    acts = [
        "import os\nwhile True: os.fork()",
        "import os\nos.system('true')",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import subprocess\nsubprocess.Popen(['true'], start_new_session=True)",
        "import pty\npty.fork()",
        "import multiprocessing as m\nm.get_context('fork').Process(target=print).start()",
        "import multiprocessing as m\nm.get_context('spawn').Process(target=print).start()",
    ]
    assert trying(acts, "may not start a process") == Verdict("passed")


def test_no_signal_is_sent() -> None:
    acts = [f"import os\nos.kill({victim}, 15)" for victim in ("os.getppid()", "0", "-1")]
    assert trying(acts, "may not send a signal") == Verdict("passed")
    assert trying(["import os\nos.killpg(0, 9)"], "may not send a signal") == Verdict("passed")


def test_ctypes_is_refused_as_if_it_were_not_there() -> None:
    assert trying(["import ctypes"], "may not use ctypes") == Verdict("passed")
    without = "try: import ctypes\nexcept ImportError: ctypes = None\n"
    assert verdict(without + RIGHT) == Verdict("passed")


def test_the_network_is_refused() -> None:
    acts = [
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        "import socket\nsocket.socket().connect(('127.0.0.1', 9))",
        "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))",
        "import socket\nsocket.socket().bind(('127.0.0.1', 0))",
    ]
    assert trying(acts, "may not use the network") == Verdict("passed")


def test_limits_cannot_be_lifted() -> None:
    acts = ["import resource\nresource.setrlimit(resource.RLIMIT_CPU, (999, 999))"]
    assert trying(acts, "may not change its limits") == Verdict("passed")


def test_nothing_outside_is_changed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    kept.chmod(0o640)
    acts = [
        "open(path, 'w')",
        "open(path, 'ab')",
        "os.open(path, os.O_RDWR)",
        "os.remove(path)",
        "os.rename(path, 'mine')",
        "os.replace('mine', path)",
        "os.truncate(path, 0)",
        "os.chmod(path, 0)",
        "os.utime(path, (0, 0))",
        "os.link(path, 'mine')",
        "shutil.rmtree(os.path.dirname(path))",
        "pathlib.Path(path).unlink()",
        "pathlib.Path(path).parent.joinpath('new').mkdir()",
        "os.symlink(os.path.dirname(path), 'out'); open('out/kept', 'w')",
        "os.chdir(os.path.dirname(path)); open('kept', 'w')",
    ]
    head = f"import os, pathlib, shutil; path = {str(kept)!r}; "
    acts = [head + act for act in acts]
    assert trying(acts, "may change files in its own folder only") == Verdict("passed")
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert kept.read_text() == "as it was"
    assert kept.stat().st_mode & 0o777 == 0o640


def test_its_own_folder_is_its_own_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution.tempfile, "tempdir", str(tmp_path))
    program = """
import os, shutil, tempfile
assert os.listdir() == []
os.makedirs('a/b'); open('a/b/c', 'w').write('x'); os.rename('a/b/c', 'd'); os.remove('d')
with tempfile.TemporaryDirectory() as folder: open(folder + '/e', 'w').close()
shutil.rmtree('a')
open('left', 'w').close()
os.mkdir('locked'); open('locked/file', 'w').close(); os.chmod('locked', 0)
"""
    assert verdict(program + RIGHT) == Verdict("passed")
    assert list(tmp_path.iterdir()) == []
    assert verdict("import os, shutil\nshutil.rmtree(os.getcwd())\n" + RIGHT).status == "passed"
