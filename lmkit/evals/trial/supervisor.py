"""supervisor: runs tests against a program in a child process, ends the child, says how it did."""

from __future__ import annotations

import builtins
import json
import os
import select
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

from .confined import OUT_OF_MEMORY, serve
from .plain import decode, encode, last_line, line_of, run_source

STATUS = {"passed": 10, "failed": 11, "timeout": 12, "memory": 13, "error": 14}  # exit status
VERDICT = 1  # the standard output: its reason
SIGKILL = 9  # the module `signal` takes 8 ms to import
MESSAGE_BYTES = 2**22  # of one answer
TESTS = "<tests>"


class End(BaseException):
    """The program is over, and with it the tests; no `except Exception` of theirs holds it."""


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
        try:
            call = {"args": encode(args), "kwargs": encode(kwargs)}
        except TypeError as error:
            self.end("error", f"the tests give an argument that cannot be sent: {error}")
        return self.ask(call)

    def ask(self, message: dict[str, Any]) -> Any:
        """What the child's function gives, or what it raises."""
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
        self.raised = error_of(kind, self.said)
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
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        run_source(job["setup"], TESTS, namespace)
        compile(tests, TESTS, "exec")
    except Exception as error:
        return "error", f"the tests cannot be run: {line_of(error)}"
    try:
        program.load(job)
        namespace[job["entry_point"]] = lambda *args, **kwargs: program(*args, **kwargs)
        run_source(tests, TESTS, namespace)
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


def error_of(kind: str, said: str) -> Exception:
    """The exception that the tests are to see: of the same class if it is one of Python's."""
    known = getattr(builtins, kind, None)
    if isinstance(known, type) and issubclass(known, Exception):
        with suppress(TypeError):  # UnicodeDecodeError takes five arguments
            return known(said)
    return RuntimeError(said)


def main() -> NoReturn:
    del sys.path[:2]  # the temporary folder, and the one with `trial`
    if hasattr(sys, "set_int_max_str_digits"):  # from 3.10.7 on
        sys.set_int_max_str_digits(0)
    program = Program()
    job = json.loads(sys.stdin.buffer.read())
    status, reason = judge(program, job)
    program.stop()
    with suppress(BrokenPipeError):
        os.write(VERDICT, reason.encode("utf-8", "replace"))
    os._exit(STATUS[status])
