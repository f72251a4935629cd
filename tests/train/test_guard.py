"""A signal sets a flag and nothing else; a second one leaves at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from lmkit.errors import Stopped
from lmkit.ranks.world import World
from lmkit.train.guard import ONE_REQUEST, Guard, StopAsked, StopFlag

CPU = torch.device("cpu")


class Two(World):
    """Two ranks, of which the other one was not asked."""

    def max(self, value: float) -> float:
        return value


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGHUP, 129)],
)
def test_a_signal_sets_the_flag(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with StopFlag() as flag:
        flag.hold()
        assert not flag
        assert flag.exit_code == 0
        os.kill(os.getpid(), number)
        assert flag
        assert flag.signal == number
        assert flag.exit_code == code
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGHUP, 129)],
)
def test_before_there_is_anything_to_save_it_interrupts(number: signal.Signals, code: int) -> None:
    def work() -> None:
        with StopFlag():
            os.kill(os.getpid(), number)
            time.sleep(60)

    with pytest.raises(Stopped, match="before the first step") as stopped:
        work()
    assert stopped.value.exit_code == code


def test_the_time_limit_is_as_a_signal_and_leaves_room() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with StopFlag(time_limit=3600) as flag:
        flag.hold()
        assert not flag
        flag.leave_room(3600 - 0.01)  # to leave takes that long
        time.sleep(0.1)
        assert flag.signal == signal.SIGALRM
        assert flag.exit_code == 142
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(signal.SIGALRM) is before


def test_several_ranks_leave_where_they_meet_and_nowhere_else(tmp_path: Path) -> None:
    alone, several = World(0, 1, CPU), Two(0, 2, CPU)
    model = nn.Sequential(nn.Linear(1, 1))
    for world, leaves_inside in ((alone, True), (several, False)):
        with StopFlag() as flag, Guard(flag, None, tmp_path, world) as guard:
            flag.hold()
            with guard.during("a rollout", model, may_leave=True):
                model(torch.zeros(1, 1))
                os.kill(os.getpid(), signal.SIGTERM)
                if leaves_inside:
                    with pytest.raises(StopAsked):
                        model(torch.zeros(1, 1))
                else:
                    model(torch.zeros(1, 1))
            with guard.during("what cannot be made again", model, may_leave=False):
                model(torch.zeros(1, 1))
                guard.meet()
            with pytest.raises(StopAsked) as asked:
                guard.meet()
            assert asked.value.stopped(3, tmp_path).exit_code == 143
    assert not model._forward_pre_hooks


def test_one_request_that_arrives_twice_is_one() -> None:
    with StopFlag() as flag:
        flag.hold()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert flag.signal == signal.SIGINT


def test_a_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with StopFlag() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not flag
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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
        (signal.SIGHUP, signal.SIGHUP, 7),  # the shell sends one, and so does the terminal
    ],
)
def test_only_a_second_request_leaves_at_once(
    first: signal.Signals, second: signal.Signals, code: int
) -> None:
    loop = textwrap.dedent("""
        import time
        from lmkit.train.guard import StopFlag
        with StopFlag() as flag:
            flag.hold()
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
    assert f"{first.name}: stopping; once more leaves at once".encode() in said
