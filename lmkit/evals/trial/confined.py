"""confined: a program's process; it confines itself, then answers calls. Knows no tests."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

from .plain import decode, encode, last_line, line_of, run_source

OUT_OF_MEMORY = 15  # the child's
PROGRAM = "<program>"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Python says what it is about to do (PEP 578), and a hook may refuse. Limits of the kernel alone
# would not do: RLIMIT_NPROC does not bind root, as whom much is run in containers.
REFUSED = {  # what a program may not do -> the events that tell of it
    "start a process": "os.exec os.fork os.forkpty os.posix_spawn os.spawn os.system pty.spawn "
    "subprocess.Popen",
    "send a signal": "os.kill os.killpg",
    "change its limits": "resource.prlimit resource.setrlimit",
    "use the network": "socket.bind socket.connect socket.getaddrinfo socket.gethostbyname "
    "socket.sendmsg socket.sendto",
}
CHANGING = {  # how many paths an event changes, its first arguments -> the events
    1: "os.chmod os.chown os.mkdir os.remove os.rmdir os.truncate os.utime shutil.rmtree",
    2: "os.link os.rename os.symlink",
}


def serve(requests: int, replies: int) -> NoReturn:
    """The child's life: confine itself, load the program, answer calls; never returns."""
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        with os.fdopen(requests, "rb") as lines:
            job = json.loads(lines.readline())
            confine(job["limits"])
            sys.path += job["path"]
            module = ModuleType("program")
            sys.modules["program"] = module
            send(replies, partial(load, job, module.__dict__))
            for line in lines:
                send(replies, partial(answer, module.__dict__[job["entry_point"]], line))
    finally:
        os._exit(1)


def load(job: dict[str, Any], namespace: dict[str, Any]) -> None:
    run_source(job["setup"], PROGRAM, namespace)
    run_source(job["program"], PROGRAM, namespace)
    if not callable(namespace.get(job["entry_point"])):
        raise NameError(f"the program has no function {job['entry_point']!r}")


def answer(function: Callable[..., Any], line: bytes) -> Any:
    call = json.loads(line)
    return encode(function(*decode(call["args"]), **decode(call["kwargs"])))


def send(replies: int, act: Callable[[], Any]) -> None:
    """What `act` gives or raises, as one line."""
    try:
        reply = json.dumps({"value": act()})
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # there may be none left to say it with
    except BaseException as error:  # SystemExit too
        said = line_of(error)
        number = last_line(error, PROGRAM)
        said += f" in the program's line {number}" if number else ""
        reply = json.dumps({"raised": type(error).__name__, "said": said})
    data = reply.encode() + b"\n"
    while data:
        data = data[os.write(replies, data) :]


def confine(limits: dict[str, Any]) -> None:
    """Limits of the kernel, and the hook; neither can be undone by the program."""
    import _posixsubprocess
    import resource

    bounds = {
        "RLIMIT_CPU": limits["cpu_seconds"],
        "RLIMIT_FSIZE": limits["file_bytes"],
        "RLIMIT_NOFILE": limits["open_files"],
        "RLIMIT_NPROC": limits["processes"],
        "RLIMIT_CORE": 0,
    }
    if sys.platform != "darwin":  # which refuses to set it
        bounds["RLIMIT_AS"] = limits["memory_bytes"]
    for name, bound in bounds.items():
        which = getattr(resource, name)
        _, most = resource.getrlimit(which)
        bound = bound if most == resource.RLIM_INFINITY else min(bound, most)
        resource.setrlimit(which, (bound, bound))
    _posixsubprocess.fork_exec = no_process  # of this no event tells; multiprocessing uses it
    sys.addaudithook(hook(os.path.realpath(os.curdir)))


def no_process(*args: Any) -> NoReturn:
    raise PermissionError("a program may not start a process")


def hook(folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    """Refuses processes, signals, the network and changes of files outside the folder."""
    refused = {event: what for what, events in REFUSED.items() for event in events.split()}
    changing = {event: paths for paths, events in CHANGING.items() for event in events.split()}
    realpath, fsdecode, devnull = os.path.realpath, os.fsdecode, os.devnull
    inside = os.path.join(folder, "")

    def check_path(path: Any) -> None:
        if isinstance(path, int):
            return  # an open file
        name = realpath(fsdecode(path))
        if name not in (folder, devnull) and not name.startswith(inside):
            raise PermissionError("a program may change files in its own folder only")

    def check(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if args[2] & WRITING:
                check_path(args[0])
        elif event in changing:
            for path in args[: changing[event]]:
                check_path(path)
        elif event in refused:
            raise PermissionError(f"a program may not {refused[event]}")
        elif event == "import" and args[0] == "_ctypes":
            raise ImportError("a program may not use ctypes")  # it goes past every hook

    return check
