"""Known ways out of the two places that run what a model wrote: none of them leads out.

Of a program's attacks each is refused where it begins, and what it was to change is as it was. What
an enemy can do nevertheless, the docstring of `run_tests` says.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from lmkit.evals.execution import Limits, Verdict, run_tests
from lmkit.inference.tools import calculate

TRY = """
def act(source):
    try: exec(source, {})
    except BaseException as error: return [type(error).__name__, str(error)]
    return None
"""

# what is tried -> how; TARGET is a file outside, OUTSIDE its folder
FILES = {
    "a path that is another at the second look": """
import io
class Path:
    told = 0
    def __fspath__(self):
        self.told += 1
        return 'mine' if self.told == 1 else TARGET
io.FileIO(Path(), 'w')""",
    "a str that lies about itself": """
class Lie(str):
    def startswith(self, *_): return True
    def split(self, *_): return ['mine']
import io
io.FileIO(Lie(TARGET), 'w')""",
    "a folder held open": """
import os
os.remove('target', dir_fd=os.open(OUTSIDE, os.O_RDONLY))""",
    "a folder held open by its own parent": """
import os
os.makedirs('a/b/c')
here = os.open('.', os.O_RDONLY)
os.chdir('a/b/c')
os.open('../../..' + OUTSIDE, os.O_RDONLY, dir_fd=here)""",
    "the mode of a file that is open for reading": """
import os
os.chmod(os.open(TARGET, os.O_RDONLY), 0)""",
    "its times": "import os\nos.utime(os.open(TARGET, os.O_RDONLY), (0, 0))",
    "its attributes": "import os\nos.setxattr(TARGET, 'user.x', b'x')",
    "a pipe beside it": "import os\nos.mkfifo(OUTSIDE + '/pipe')",
    "a pipe by the module in C": "import posix\nposix.mkfifo(OUTSIDE + '/pipe')",
    "a node beside it": "import os\nos.mknod(OUTSIDE + '/node')",
    "a data base": "import sqlite3\nsqlite3.connect(TARGET).execute('create table t (x)')",
    "a data base of another kind": "import _dbm\n_dbm.open(TARGET, 'n')",
    "a history of commands": "import readline\nreadline.write_history_file(TARGET)",
    "a link that leads out": "import os\nos.symlink(OUTSIDE, 'out')\nopen('out/target', 'w')",
    "a relative link": """
import os
os.mkdir('a')
os.symlink('../..' + OUTSIDE, 'a/out')
open('a/out/target', 'w')""",
    "another root": "import os\nos.chroot(OUTSIDE)",
    "its own memory": "open('/proc/self/mem', 'r+b')",
    "a temporary file elsewhere": "import tempfile\ntempfile.mkstemp(dir=OUTSIDE)",
    "an archive": """
import io, tarfile
made = io.BytesIO()
with tarfile.open(fileobj=made, mode='w') as file:
    info = tarfile.TarInfo('../' * 20 + TARGET[1:]); info.size = 1
    file.addfile(info, io.BytesIO(b'x'))
made.seek(0)
with tarfile.open(fileobj=made) as file: file.extractall('.')""",
}
# the wall itself: what it could look up is altered, then it is asked to let pass
WALL = {
    "a builtin": "import builtins\nbuiltins.isinstance = builtins.type = lambda *_: int",
    "what is an error": "import builtins\nbuiltins.PermissionError = Warning",
    "its module": """
import sys
wall = sys.modules['trial.wall']
wall.WRITING = 0
wall.REFUSED.clear(); wall.CHANGING.clear(); wall.CLOSED.clear()""",
    "realpath": """
import os, posixpath
posixpath._joinrealpath = lambda *_, **__: (os.getcwd() + '/mine', True)
posixpath.realpath = posixpath.abspath = lambda *_, **__: os.getcwd() + '/mine'""",
    "the functions that it asks": """
import os, posix
for each in (os, posix):
    each.readlink = each.stat = each.lstat = lambda *_: (_ for _ in ()).throw(OSError)
    each.getcwd = lambda: '/'
os.fspath = os.fsdecode = lambda path: 'mine'""",
    "the frames of its refusal": """
try: open(TARGET, 'w')
except PermissionError as error:
    trace = error.__traceback__
    while trace:
        for name, value in list(trace.tb_frame.f_locals.items()):
            if name in ('refused', 'changes', 'events', 'changing', 'folder', 'writing'):
                trace.tb_frame.f_locals[name] = type(value)()
        trace = trace.tb_next""",
    "the functions in those frames": """
try: open(TARGET, 'w')
except PermissionError as error:
    trace = error.__traceback__
    while trace:
        for wall in list(trace.tb_frame.f_locals.values()):
            if type(wall) is not type(lambda: 0): continue
            try: wall.__kwdefaults__.update(kind=lambda _: str, writing=0, closed=())
            except PermissionError: pass
            for other in (lambda *_, **__: 'mine'), (lambda *_, **__: ()):
                try: wall.__code__ = other.__code__
                except PermissionError: pass
        trace = trace.tb_next""",
    "a hook of its own": "import sys\nsys.addaudithook(lambda *_: None)",
    "a tracer": """
import sys
def trace(frame, event, _):
    if 'writing' in frame.f_locals: frame.f_locals['writing'] = 0
    return trace
sys.settrace(trace); sys.setprofile(trace)""",
    "no stack left": """
import sys
def down():
    try: down()
    except RecursionError: open(TARGET, 'w')
sys.setrecursionlimit(200)
try: down()
except (RecursionError, PermissionError): pass
sys.setrecursionlimit(1000)""",
    "the codecs": "import codecs\ncodecs.register_error('strict', lambda e: ('x', e.end))",
}
# what is tried -> how, what it is answered with
OTHER = {
    "all objects": ("import gc\ngc.get_objects()", "look behind its wall"),
    "who holds an object": ("import gc\ngc.get_referrers(gc)", "look behind its wall"),
    "what an object holds": ("import gc\ngc.get_referents(gc)", "look behind its wall"),
    "the frames of other threads": ("import sys\nsys._current_frames()", "look behind its wall"),
    "the memory of its keeper": (
        "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')", "look behind its wall"),
    "an interpreter of its own": (
        "import _xxsubinterpreters as s\ns.run_string(s.create(), 'import os')", ""),
    "ctypes by its own name": ("import _ctypes", "may not use ctypes"),
    "ctypes as a part of a package": ("""
import importlib.util, importlib.machinery, sysconfig, sys
for folder in sys.path:
    finder = importlib.machinery.FileFinder(folder, (importlib.machinery.ExtensionFileLoader,
        importlib.machinery.EXTENSION_SUFFIXES)) if folder else None
    spec = finder and finder.find_spec('_ctypes')
    if spec:
        spec.name = spec.loader.name = 'mine._ctypes'
        importlib.util.module_from_spec(spec)
raise ImportError('may not use ctypes: there is none')""", "may not use ctypes"),
    "ctypes by a name that lies": ("""
class Lie(str):
    def rpartition(self, *_): return ('', '', 'math')
__import__(Lie('_ctypes'))""", "name of its own kind"),
    "machine code of its own": ("""
import importlib.machinery, importlib.util
open('mine.so', 'wb').write(b'x')
loader = importlib.machinery.ExtensionFileLoader('mine', 'mine.so')
importlib.util.module_from_spec(importlib.util.spec_from_loader('mine', loader))""",
        "may not bring machine code"),
    "a module in C made anew": ("""
import _imp, importlib.machinery as m
_imp.create_builtin(m.ModuleSpec('posix', None)).mkfifo('x')""", "may not start a process"),
    "subprocess below Python": ("""
import sys
del sys.modules['_posixsubprocess']
import _posixsubprocess""", "may not start a process"),
    "subprocess itself": ("import _posixsubprocess as p\np.fork_exec()", "may not start a process"),
    "a file in memory, run": ("""
import os
os.execv(f'/proc/self/fd/{os.memfd_create("x")}', ['x'])""", "may not start a process"),
    "a shell by its library": ("import os\nos.popen('true')", "may not start a process"),
    "a browser": ("import subprocess\nsubprocess.run(['true'])", "may not start a process"),
    "a signal to whom a handle means": ("""
import os, signal
signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)""", ""),
    "another's priority": (
        "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)", "may not start a process"),
    "another user": ("import os\nos.setuid(os.getuid())", "may not start a process"),
    "another's limits": (
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "may not change its limits"),
    "a server": ("import socket\nsocket.socket().listen()", "may not use the network"),
    "a packet": ("import _socket\n_socket.socket(2, 2)", "may not use the network"),
    "a name on the network": (
        "import socket\nsocket.gethostbyname('localhost')", "may not use the network"),
    "the machine's name": (
        "import socket\nsocket.sethostname(socket.gethostname())", "may not use the network"),
    "keys for a terminal": ("import fcntl\nfcntl.ioctl(0, 0x5412, b'x')", "may not steer a device"),
    "the system's log": ("import syslog\nsyslog.syslog('x')", "may not steer a device"),
    "memory that others share": (
        "from multiprocessing.shared_memory import SharedMemory\nSharedMemory('x', True, 9)", ""),
}  # fmt: skip
ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of Linux's own functions")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "target").write_text("as it was")
    (folder / "target").chmod(0o640)
    return folder


def attack(acts: list[str], outside: Path) -> list[list[str] | None]:
    """Run each act in one program; the tests, which are trusted, write down what became of it."""
    names = f"TARGET = {str(outside / 'target')!r}\nOUTSIDE = {str(outside)!r}\n"
    answers = outside.parent / "answers.json"
    tests = f"import json\ntold = [act(each) for each in {[names + each for each in acts]!r}]\n"
    tests += f"with open({str(answers)!r}, 'w') as file: json.dump(told, file)\n"
    limits = Limits(wall_seconds=120)
    assert run_tests(TRY, tests, "act", limits=limits) == Verdict("passed")
    found: list[list[str] | None] = json.loads(answers.read_text())
    return found


def assert_untouched(outside: Path) -> None:
    assert [file.name for file in outside.iterdir()] == ["target"]
    target = outside / "target"
    assert target.read_text() == "as it was"
    assert target.stat().st_mode & 0o777 == 0o640
    assert target.stat().st_mtime > 0
    assert not hasattr(os, "listxattr") or os.listxattr(target) == []


def test_no_file_outside_is_changed(outside: Path) -> None:
    found = attack(list(FILES.values()), outside)
    escaped = [name for name, error in zip(FILES, found, strict=True) if error is None]
    assert escaped == []
    assert_untouched(outside)
    print(f"escapes refused, files: {len(found)}")


@pytest.mark.parametrize("name", WALL)
def test_the_wall_cannot_be_altered(outside: Path, name: str) -> None:
    """It may take all else with it, so that the program cannot even answer."""
    then = (
        "open(TARGET, 'w').write('escaped')",
        "import posix; posix.posix_spawn('/bin/sh', ['sh', '-c', 'echo > ' + TARGET], {})",
        "import posix; posix.remove(TARGET)",
    )
    source = f"TARGET = {str(outside / 'target')!r}\n{WALL[name]}\n"
    source += "".join(f"try: {act}\nexcept: pass\n" for act in then)
    run_tests(TRY, f"act({source!r})", "act", limits=Limits(wall_seconds=120))
    assert_untouched(outside)


@ONLY_LINUX
def test_every_other_way_is_refused(outside: Path) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    found = attack([source for source, _ in OTHER.values()], outside)
    wrong = [
        (name, error)
        for (name, (_, said)), error in zip(OTHER.items(), found, strict=True)
        if error is None or said not in error[1]
    ]
    assert wrong == []
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    print(f"escapes refused, others: {len(found)}")


# --- the calculator -------------------------------------------------------------------------------

EXPRESSIONS = [
    "__import__('os').system('touch canary')",
    "().__class__.__base__.__subclasses__()",
    "''.__class__.__mro__[1].__subclasses__()",
    "'a'.count.__self__.__class__",
    "'{0.__class__}'.format(1)",
    "'%s' % __builtins__",
    "open('canary', 'w')",
    "exec('import os')",
    "eval('1')",
    "breakpoint()",
    "(lambda: 1)()",
    "[1 for _ in 'a']",
    "{**{}}",
    "f'{1}'",
    "1 if True else 2",
    "x := 1",
    "print(1)",
    "len.__self__.open('canary', 'w')",
    "len('a', 'b')",
    "len(*'a')",
    "len(**{})",
    "'a'.count('a', 0, 1)",
    "'a'.count(*'a')",
    "'a'.encode()",
    "'a'*10**9",
    "'a'+'b'",
    "\"a\\x27\"",
    "b'a'",
    "9**9**9",
    "9**9**9**9",
    "2**1000000",
    "(2**900)**(2**900)",
    "10**-10**9",
    "1e308*10",
    "-1e308*10",
    "1e999",
    "(-8)**0.5",
    "0**-1",
    "1//0",
    "1%0",
    "5.0//0.0",
    "1e300**2",
    "1<<100000",
    "~1",
    "not 1",
    "1 and 2",
    "1 == 1",
    "1j",
    "0x10",
    "0b1",
    "1_000",
    "...",
    "None",
    "True",
    "#",
    "1 # 2",
    "1;2",
    "1\n2",
    "１+１",
    "\x00",
    "(" * 400,
    "(" * 200 + "1" + ")" * 200,
    "-" * 499 + "1",
    "+" * 300 + "1",
    "1" * 500,
    "1" * 5000,
    "9" * 499 + "*9",
    "1+" * 249 + "1",
    "'" * 499,
    "len('a'" * 60,
    ".count(" * 70,
    "'a'.count('a').count('a')",
    "eeee",
    "e1",
    "1e",
    "1e1e1",
    "..",
    "1..2",
    ",",
    "1,2",
    "(1,)",
    "()",
    "",
    " ",
]  # fmt: skip


def test_the_calculator_calculates_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = {text: calculate(text) for text in EXPRESSIONS}
    assert os.listdir() == []
    numbers = {text: result for text, result in found.items() if result is not None}
    assert all(set(result) <= set("0123456789.-e+") for result in numbers.values()), numbers
    sums = {"1+" * 249 + "1", "+" * 300 + "1", "(" * 200 + "1" + ")" * 200}
    assert numbers.keys() <= {"1,2", "10**-10**9", *sums}
    print(f"escapes refused, calculator: {len(EXPRESSIONS)}")


def test_the_calculator_is_not_interrupted_by_a_thread_or_signal() -> None:
    """It has no timer of its own, and leaves the signals alone."""
    before = signal.getsignal(signal.SIGALRM)
    assert calculate("12*7") == "84"
    assert signal.getsignal(signal.SIGALRM) is before
