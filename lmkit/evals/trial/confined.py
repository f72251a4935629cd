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
from .wall import build_wall

OUT_OF_MEMORY = 15  # the child's
PROGRAM = "<program>"


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
    """Limits of the kernel, and the wall; neither can be undone by the program."""
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
    build_wall(os.path.realpath(os.curdir))
