"""A signal sets a flag and nothing else; a second one leaves at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from lmkit.train.guard import ONE_REQUEST, StopFlag


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)],
)
def test_a_signal_sets_the_flag(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with StopFlag() as flag:
        assert not flag
        assert flag.exit_code == 0
        os.kill(os.getpid(), number)
        assert flag
        assert flag.signal == number
        assert flag.exit_code == code
    assert signal.getsignal(number) is before


def test_one_request_that_arrives_twice_is_one() -> None:
    with StopFlag() as flag:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert flag.signal == signal.SIGINT


def test_no_handler_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def run() -> None:
        with StopFlag():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGTERM, signal.SIGTERM, 143),
        (signal.SIGUSR1, signal.SIGTERM, 7),  # the scheduler's notice is no impatience
    ],
)
def test_only_a_second_request_leaves_at_once(
    first: signal.Signals, second: signal.Signals, code: int
) -> None:
    loop = textwrap.dedent("""
        import time
        from lmkit.train.guard import StopFlag
        with StopFlag() as flag:
            print("ready", flush=True)
            input()
        raise SystemExit(7)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", loop],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(first)
        time.sleep(ONE_REQUEST + 0.1)
        child.send_signal(second)
        time.sleep(0.2)
        _, said = child.communicate(b"\n")
        assert child.returncode == code
    assert f"{first.name}: stopping after this step".encode() in said
