"""supervisor: a script that lets a program answer tests and says how it did; nothing of lmkit.

`execution` runs it in a fresh interpreter. It divides into two processes: the tests run here, the
program in a child that is told the arguments of a call and tells what its function gives back, as
plain data. The child is born before the tests are read and holds no way to the verdict, which is
the exit status of this process. So a program can exit, print, raise or return objects that are
equal to everything: it passes by right answers only.
"""

from __future__ import annotations

import builtins
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from types import CodeType, ModuleType
from typing import Any, NoReturn

STATUS = {"passed": 10, "failed": 11, "timeout": 12, "memory": 13, "error": 14}  # exit status
OUT_OF_MEMORY = 15  # the child's
VERDICT = 1  # the standard output: its reason
SIGKILL = 9  # the module `signal` takes 8 ms to import
MESSAGE_BYTES = 2**22  # of one answer
PROGRAM, TESTS = "<program>", "<tests>"

# Python says what it is about to do (PEP 578), and a hook may refuse. Limits of the kernel alone
# would not do: RLIMIT_NPROC does not bind root, as whom much is run in containers.
REFUSED = {
    "os.exec": "start a process",
    "os.fork": "start a process",
    "os.forkpty": "start a process",
    "os.posix_spawn": "start a process",
    "os.spawn": "start a process",
    "os.system": "start a process",
    "pty.spawn": "start a process",
    "subprocess.Popen": "start a process",
    "os.kill": "send a signal",
    "os.killpg": "send a signal",
    "resource.prlimit": "change its limits",
    "resource.setrlimit": "change its limits",
    "socket.bind": "use the network",
    "socket.connect": "use the network",
    "socket.getaddrinfo": "use the network",
    "socket.gethostbyname": "use the network",
    "socket.sendmsg": "use the network",
    "socket.sendto": "use the network",
}
CHANGED_PATHS = {  # event -> how many of its arguments are paths that it changes
    "os.chmod": 1,
    "os.chown": 1,
    "os.link": 2,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.utime": 1,
    "shutil.rmtree": 1,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class End(BaseException):
    """The program is over, and with it the tests; no `except Exception` of theirs holds it."""


# --- this side: the tests -------------------------------------------------------------------------


class Program:
    """The child as the tests see it: something to call."""

    def __init__(self) -> None:
        from_here, self.requests = os.pipe()
        self.replies, to_here = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            os.close(self.requests)
            os.close(self.replies)
            serve(from_here, to_here)
        os.close(from_here)
        os.close(to_here)
        self.ended: tuple[int, float] | None = None  # its status and processor time, once stopped
        self.verdict: tuple[str, str] | None = None  # if it has decided before the tests
        self.raised: Exception | None = None  # by its last call, into the tests
        self.said = ""  # about that exception

    def load(self, job: dict[str, Any]) -> None:
        """Let the child confine itself and run the program's top level."""
        self.limits = job["limits"]
        self.deadline = time.monotonic() + self.limits["wall_seconds"]
        self.ask({key: job[key] for key in ("setup", "program", "entry_point", "limits", "path")})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.ask({"args": encode(args), "kwargs": encode(kwargs)})

    def ask(self, message: dict[str, Any]) -> Any:
        """What the child's function gives, or what it raises."""
        if self.verdict:
            raise End
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self.requests, data) :]
        except BrokenPipeError:
            self.is_dead()
        reply = self.receive()
        try:
            if "raised" in reply:
                kind, self.said = str(reply["raised"]), str(reply["said"])
            else:
                return decode(reply["value"])
        except Exception:
            self.end("error", "an answer that cannot be read")
        known = getattr(builtins, kind, None)
        self.raised = error_of(known if isinstance(known, type) else None, self.said)
        raise self.raised

    def receive(self) -> dict[str, Any]:
        line = bytearray()
        while not line.endswith(b"\n"):
            left = max(0.0, self.deadline - time.monotonic())
            # a pipe that nobody reads any more is ready, too: lmkit was ended
            ready, _, _ = select.select([self.replies, VERDICT], [], [], left)
            if not ready or VERDICT in ready:
                self.end("timeout", f"no answer within {self.limits['wall_seconds']:g} s")
            block = os.read(self.replies, 2**16)
            if not block:
                self.is_dead()
            line += block
            if len(line) > MESSAGE_BYTES:
                self.end("error", f"an answer of more than {MESSAGE_BYTES >> 20} MiB")
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            self.end("error", "an answer that cannot be read")

    def is_dead(self) -> NoReturn:
        """The child has closed its end: say why."""
        status, seconds = self.stop()
        if os.WIFSIGNALED(status):
            number, most = os.WTERMSIG(status), self.limits["cpu_seconds"]
            # half: 0.9 s were counted of a child that was killed for 1 s
            if number == SIGKILL and seconds > most / 2:
                self.end("timeout", f"used its {most} s of processor time")
            self.end("error", f"killed by signal {number}")
        if os.WEXITSTATUS(status) == OUT_OF_MEMORY:
            self.end("memory", f"more than {self.limits['memory_bytes'] >> 20} MiB")
        self.end("error", f"left with status {os.WEXITSTATUS(status)} before the tests were over")

    def end(self, status: str, reason: str) -> NoReturn:
        self.verdict = status, reason
        raise End

    def stop(self) -> tuple[int, float]:
        """End the child and whatever it has started, once: its status and processor time.

        A child that is dead already keeps the status that it died with.
        """
        if self.ended is None:
            # none is left; macOS says the latter of a group of the dead
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.child, SIGKILL)
            os.kill(self.child, SIGKILL)  # it may not have come to make its group yet
            _, status, used = os.wait4(self.child, 0)
            self.ended = status, used.ru_utime + used.ru_stime
        return self.ended


def judge(program: Program, job: dict[str, Any]) -> tuple[str, str]:
    """(status, reason): run the tests against the program."""
    tests = job["tests"]
    # `program` itself is not handed out: the tests get a plain function
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        exec_seeded(job["setup"], TESTS, namespace)
        code = compile(tests, TESTS, "exec")
    except Exception as error:
        return "error", f"the tests cannot be run: {line_of(error)}"
    try:
        program.load(job)
        namespace[job["entry_point"]] = lambda *args, **kwargs: program(*args, **kwargs)
        exec_seeded(tests, TESTS, namespace, code)
    except End:
        pass
    except Exception as error:
        if error is program.raised:
            return "error", program.said
        number = last_line(error, TESTS)
        lines = tests.splitlines()
        where = lines[number - 1].strip() if 0 < number <= len(lines) else ""
        return "failed", f"{line_of(error)} in the tests' line {number}: {where}"
    return program.verdict or ("passed", "")


def error_of(kind: type | None, said: str) -> Exception:
    """The exception that the tests are to see: of the same class if it is one of Python's."""
    if kind is not None and issubclass(kind, Exception):
        with suppress(TypeError):  # UnicodeDecodeError takes five arguments
            return kind(said)
    return RuntimeError(said)


# --- the other side: the program ------------------------------------------------------------------


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
    exec_seeded(job["setup"], PROGRAM, namespace)
    exec_seeded(job["program"], PROGRAM, namespace)
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
        elif event in CHANGED_PATHS:
            for path in args[: CHANGED_PATHS[event]]:
                check_path(path)
        elif event in REFUSED:
            raise PermissionError(f"a program may not {REFUSED[event]}")
        elif event == "import" and args[0] == "_ctypes":
            raise ImportError("a program may not use ctypes")  # it goes past every hook

    return check


# --- both sides -----------------------------------------------------------------------------------


MAKE: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "iter": iter,
}


def encode(value: Any) -> Any:
    """Plain data as JSON can hold it; what is not of these kinds goes as the nearest of them.

    A subclass goes as its base (a Counter as a dict), any other number as an int or a float, any
    other iterable as an iterator, which can be read but equals nothing.

    Raises:
        TypeError: it is none of these.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, [encode(item) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(key), encode(item)] for key, item in value.items()]]
    if isinstance(value, bytes | bytearray):
        return ["bytes", value.hex()]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, Iterable):
        return ["iter", [encode(item) for item in value]]
    try:
        whole = int(value)
        return whole if whole == value else float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"a {type(value).__name__} is no plain data") from error


def decode(data: Any) -> Any:
    """What `encode` was given."""
    if not isinstance(data, list):
        return data
    kind, content = data
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(*content)
    return MAKE[kind]([decode(item) for item in content])


def exec_seeded(
    source: str, name: str, namespace: dict[str, Any], code: CodeType | None = None
) -> None:
    """Run it; the `random` that it may use draws the same numbers every time."""
    if "random" in source:  # its import takes 8 ms
        import random

        random.seed(0)
    exec(code or compile(source, name, "exec"), namespace)


def line_of(error: BaseException) -> str:
    """`TypeError: what it says`, at most 200 characters of one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    said = " ".join(text.split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def last_line(error: BaseException, name: str) -> int:
    """The innermost line of that source which the exception went through; 0 if there is none."""
    if isinstance(error, SyntaxError) and error.filename == name:
        return error.lineno or 0
    number, frame = 0, error.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename == name:
            number = frame.tb_lineno
        frame = frame.tb_next
    return number


def main() -> NoReturn:
    del sys.path[0]  # the folder of this script
    if hasattr(sys, "set_int_max_str_digits"):  # from 3.10.7 on
        sys.set_int_max_str_digits(0)
    program = Program()
    job = json.loads(sys.stdin.buffer.read())
    status, reason = judge(program, job)
    program.stop()
    with suppress(BrokenPipeError):
        os.write(VERDICT, reason.encode("utf-8", "replace"))
    os._exit(STATUS[status])


if __name__ == "__main__":
    main()
