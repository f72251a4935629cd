"""wall: what a program is refused while it runs; knows no tests.

Python says what it is about to do (PEP 578), and a hook may refuse. Limits of the kernel alone
would not do: RLIMIT_NPROC does not bind root, as whom much is run in containers. The hook lives in
the program's own interpreter, so nothing that it uses may be the program's to alter: no global, no
builtin, no path that is more than a text. All it needs stands among the defaults of its parameters.
"""

from __future__ import annotations

import _imp
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
UNIX = 1  # the family of sockets that reach no network

REFUSED = {  # what a program may not do -> the events that tell of it
    "start a process": "os.exec os.fork os.forkpty os.posix_spawn os.spawn os.system pty.spawn "
    "subprocess.Popen cpython.PyInterpreterState_New",
    "send a signal": "os.kill os.killpg",
    "change its limits": "resource.prlimit resource.setrlimit",
    "use the network": "socket.bind socket.connect socket.getaddrinfo socket.gethostbyaddr "
    "socket.gethostbyname socket.getnameinfo socket.sendmsg socket.sendto socket.sethostname",
    "use ctypes": "ctypes.call_function ctypes.dlopen ctypes.dlsym",
    "look behind its wall": "gc.get_objects gc.get_referents gc.get_referrers sys._current_frames",
    "steer a device": "fcntl.ioctl syslog.openlog syslog.syslog",
}
CLOSED = {  # what a program may not do -> modules in C that do it without telling
    "use ctypes": "_ctypes _ctypes_test _cffi_backend",
    "start a process": "_posixsubprocess _posixshmem _xxsubinterpreters _interpreters _testcapi "
    "_testinternalcapi",
    "change files in any folder but its own": "_sqlite3 _dbm _gdbm readline",
}
CHANGING = {  # how many paths an event changes, its first arguments -> the events
    1: "os.chflags os.chmod os.chown os.mkdir os.remove os.removexattr os.rmdir os.setxattr "
    "os.truncate os.utime shutil.rmtree",
    2: "os.link os.rename os.symlink",
}
UNTOLD = {  # what no event tells of: it is taken away, from the modules in C too
    "posix": "chroot mkfifo mknod pidfd_open sched_setaffinity sched_setscheduler setgid setns "
    "setpriority setregid setresgid setresuid setreuid setuid unshare",
    "_signal": "pidfd_send_signal",
    "_posixsubprocess": "fork_exec",
}


def build_wall(folder: str) -> None:
    """Put it up, for good: `folder`, absolute and without links, is all that the program may
    change."""
    for module, names in UNTOLD.items():
        inner, outer = __import__(module), sys.modules.get(module.lstrip("_"))
        for name in names.split():
            for each in (inner, outer, os if module == "posix" else None):
                if hasattr(each, name):
                    setattr(each, name, refuse_call)
    closed = frozenset(" ".join(CLOSED.values()).split())
    for name in sys.builtin_module_names:
        if name not in closed:
            __import__(name)
    _imp.create_builtin = refuse_call  # it would make those anew, with all their functions
    sys.addaudithook(hook(folder, resolver()))


def refuse_call(*args: Any, **kwargs: Any) -> NoReturn:
    raise PermissionError("a program may not start a process, nor look behind its wall")


def hook(folder: str, find: Callable[..., str]) -> Callable[[str, tuple[Any, ...]], None]:
    """Refuses what is listed above, and changes of files outside the folder."""
    opened, imported = opening(folder, find), importing(folder, find)
    events = _pairs(REFUSED)
    changing = tuple((name, n) for n, names in CHANGING.items() for name in names.split())

    def check(
        event: str,
        args: tuple[Any, ...],
        *,
        events: Any = events,
        refused: Any = frozenset(name for name, _ in events),
        changing: Any = changing,
        changes: Any = frozenset(name for name, _ in changing),
        folder: Any = folder,
        unix: Any = UNIX,
        find: Any = find,
        opened: Any = opened,
        imported: Any = imported,
        devnull: Any = os.devnull,
        attributes: Any = ("object.__getattr__", "object.__setattr__", "object.__delattr__"),
        refusal: Any = PermissionError,
    ) -> None:
        paths: Any = ()
        if event == "open":
            paths = opened(*args)
        elif event in changes:
            for known, number in changing:
                if known == event:
                    paths = args[:number]
        elif event in refused:
            for known, what in events:
                if known == event:
                    raise refusal("a program may not " + what)
        elif event == "import":
            imported(args[0], args[1])
        elif event == "socket.__new__" and args[1] != unix:
            raise refusal("a program may not use the network")
        elif event in attributes:
            for own in (find, opened, imported):  # they stand in a traceback's frames
                if args[0] is own:
                    raise refusal("a program may not look behind its wall")
        for path in paths:
            place = find(path, changed=True)
            if place != devnull and place != folder and not place.startswith(folder + "/"):
                raise refusal("a program may change files in its own folder only")

    return check


def opening(folder: str, find: Callable[..., str]) -> Callable[[Any, Any, int], tuple[Any, ...]]:
    """The paths that are changed by opening one, or by what is held open then."""

    def opened(
        name: Any,
        mode: Any,
        flags: int,
        *,
        folder: Any = folder,
        find: Any = find,
        writing: Any = WRITING,
        kind: Any = type,
        whole: Any = int,
        stat: Any = os.stat,
        oserror: Any = OSError,
        refusal: Any = PermissionError,
    ) -> tuple[Any, ...]:
        if kind(name) is whole and mode is not None:
            return ()  # a file that is open
        place = find(name, changed=mode is None)  # as `os.open`, which may hold a folder open
        if place.startswith("/proc/") and place.endswith("/mem"):
            raise refusal("a program may not look behind its wall")
        if flags & writing:
            return (name,)
        if mode is None and place != folder and not place.startswith(folder + "/"):
            try:  # a folder elsewhere, held open, would make any relative path lead there
                if stat(place).st_mode & 0o170000 == 0o040000:
                    return (name,)
            except oserror:
                pass
        return ()

    return opened


def importing(folder: str, find: Callable[..., str]) -> Callable[[Any, Any], None]:
    """Refuses the modules listed above, and machine code from the folder."""
    closed = _pairs(CLOSED)

    def imported(
        module: Any,
        file: Any,
        *,
        folder: Any = folder,
        find: Any = find,
        closed: Any = closed,
        kind: Any = type,
        text: Any = str,
        missing: Any = ImportError,
    ) -> None:
        if kind(module) is not text:
            raise missing("a program may not use a name of its own kind")
        last = module.rpartition(".")[2]  # by whatever package it is asked for: this counts
        for known, what in closed:
            if known == last:
                raise missing("a program may not " + what)
        if file is not None and find(file).startswith(folder + "/"):
            raise missing("a program may not bring machine code")

    return imported


def _pairs(table: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, what) for what, names in table.items() for name in names.split())


def resolver() -> Callable[..., str]:
    """`os.path.realpath`, of which no part can be altered."""

    def find(
        path: Any,
        *,
        changed: Any = False,
        kind: Any = type,
        text: Any = str,
        raw: Any = bytes,
        getcwd: Any = os.getcwd,
        readlink: Any = os.readlink,
        oserror: Any = OSError,
        refusal: Any = PermissionError,
    ) -> str:
        if kind(path) is raw:
            path = path.decode()
        if kind(path) is not text:
            # of a handle nobody knows the place; another object may tell another path next time
            raise refusal("a program may change files in its own folder only")
        rest = path.split("/")
        if not path.startswith("/"):
            if changed and ".." in rest:  # it may be relative to any folder that is open
                raise refusal("a program may change files in its own folder only")
            rest = getcwd().split("/") + rest
        rest = rest[::-1]
        place, links = "", 0
        while rest:
            part = rest.pop()
            if part in ("", "."):
                continue
            if part == "..":
                place = place.rpartition("/")[0]
                continue
            try:
                target = readlink(place + "/" + part)
            except oserror:
                place = place + "/" + part
                continue
            links += 1
            if links > 40:
                raise refusal("a path of links without end")
            place = "" if target.startswith("/") else place
            rest += target.split("/")[::-1]
        return place or "/"

    return find
