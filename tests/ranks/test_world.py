"""Ranks of one start find each other, whatever an earlier one left; their ends are told once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch.distributed import HashStore, Store

from lmkit.errors import ConfigError, DistributedError, Stopped
from lmkit.ranks import launch, pulse
from lmkit.ranks.board import Board, Failure
from lmkit.ranks.launch import End, Launch, _meet, fell, join
from lmkit.ranks.world import World


def together(*work: Callable[[], Any]) -> list[Any]:
    """Every rank's part, each in a thread of its own."""
    with ThreadPoolExecutor(len(work)) as threads:
        return [part.result(timeout=60) for part in [threads.submit(each) for each in work]]


def meet(store: Store, size: int = 2) -> list[str]:
    return together(*(lambda rank=rank: _meet(store, rank, size, 30.0) for rank in range(size)))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    """Two ranks that have met."""
    monkeypatch.setattr(pulse, "BEAT", 0.02)
    monkeypatch.setattr(launch, "TELLING", 0.3)
    store = HashStore()
    Board(store, 0, 2).lay_out()
    ranks = [Launch(store, store, rank, 2) for rank in range(2)]
    yield ranks
    for each in ranks:
        each.leave()


class TestMeeting:
    def test_all_ranks_take_one_name(self) -> None:
        assert len(set(meet(HashStore(), 5))) == 1

    def test_every_start_has_a_name_of_its_own(self) -> None:
        store = HashStore()  # torchrun keeps it from one restart to the next
        names = [meet(store)[0] for _ in range(5)]
        assert len(set(names)) == 5

    def test_what_a_dead_rank_left_is_nobodys_answer(self) -> None:
        store = HashStore()
        with pytest.raises(DistributedError, match="the others did not come"):
            _meet(store, 1, 2, 0.1)  # said hello, and was killed
        with pytest.raises(DistributedError, match="ranks 1 did not come within 0 s; look at what"):
            _meet(store, 0, 2, 0.1)
        assert len(set(meet(store))) == 1

    def test_fewer_or_more_ranks_may_come_the_next_time(self) -> None:
        store = HashStore()
        for size in (2, 4, 1, 3):
            assert len(set(meet(store, size))) == 1


class TestAgreement:
    def test_ranks_that_are_alike_go_on(self, pair: list[Launch]) -> None:
        facts = {"steps": 5, "the data": "abc"}
        together(*(lambda each=each: each.agree(facts) for each in pair))

    def test_what_differs_is_named_on_every_rank(self, pair: list[Launch]) -> None:
        def agree(rank: int) -> None:
            with pytest.raises(DistributedError) as error:
                pair[rank].agree({"steps": 5 + rank, "seed": 1, "lr": 0.1 if rank else "0.1"})
            assert "rank 1 of 2 failed first: its lr, steps differ from rank 0's" in str(
                error.value
            )

        together(lambda: agree(0), lambda: agree(1))

    def test_a_rank_that_leaves_is_not_waited_for(self, pair: list[Launch]) -> None:
        pair[1].leave()
        with pytest.raises(DistributedError, match="rank 1 of 2 left before the first step"):
            pair[0].agree({})

    def test_a_rank_that_fails_is_not_waited_for(self, pair: list[Launch]) -> None:
        pair[1].fell(ConfigError("no data"))
        with pytest.raises(DistributedError, match="rank 1 of 2 failed first: no data"):
            pair[0].agree({})


class TestEnds:
    def test_the_first_to_fail_speaks_and_the_others_quote_it(self, pair: list[Launch]) -> None:
        first = pair[1].fell(ConfigError("no data", hint="write data:"))
        assert first.line == "rank 1 of 2: no data; write data:"
        end = pair[0].fell(DistributedError("lost another rank: Connection closed by peer"))
        assert isinstance(end.error, DistributedError)
        assert str(end.error) == "rank 1 of 2 failed first: no data; write data:"
        assert end.line is None  # on this machine it was said

    def test_an_error_of_all_ranks_is_told_once_and_keeps_its_code(
        self, pair: list[Launch]
    ) -> None:
        ends = [each.fell(ConfigError("no such key")) for each in pair]
        assert [end.error.exit_code for end in ends if isinstance(end.error, ConfigError)] == [2, 2]
        assert [end.line for end in ends] == ["rank 0 of 2: no such key", None]

    def test_one_rank_of_every_other_machine_says_it_too(self, pair: list[Launch]) -> None:
        pair[1].fell(ConfigError("no data"))
        pair[0]._host = "another"
        end = pair[0].fell(DistributedError("lost another rank"))
        assert end.line is not None
        assert end.line.endswith("failed first: no data")
        assert end.line.startswith("rank 1 of 2 on ")

    def test_a_rank_that_fell_silent_is_named(self, pair: list[Launch]) -> None:
        pair[1]._pulse.stop()  # as SIGKILL does
        end = pair[0].fell(RuntimeError("[/x/gloo/transport/tcp/pair.cc:1] Connection reset"))
        assert end.line is not None
        assert end.line.startswith("rank 1 of 2 failed first: it was killed, stopped or cut off")
        assert "Connection reset" in end.line

    def test_an_error_of_a_collective_among_the_living_is_one_line(
        self, pair: list[Launch]
    ) -> None:
        end = pair[0].fell(RuntimeError("[/x/gloo/transport/tcp/unbound_buffer.cc:1] Timed out"))
        assert isinstance(end.error, DistributedError)
        assert end.error.what == "lost another rank: Timed out"

    def test_a_bug_stays_what_it_is(self, pair: list[Launch]) -> None:
        bug = RuntimeError("shapes differ")
        assert pair[0].fell(bug) == End(bug, "rank 0 of 2: RuntimeError: shapes differ")
        assert pair[0].fell(bug).error is bug  # asked again, by the command line

    def test_of_ranks_that_were_asked_to_stop_one_says_so(self) -> None:
        stopped = Stopped("stopped at step 3")
        assert fell(stopped, 0, 2).line == "stopped at step 3"
        assert fell(stopped, 1, 2).line is None

    def test_a_secret_is_not_told(self, pair: list[Launch], monkeypatch: Any) -> None:
        monkeypatch.setenv("HF_TOKEN", "abcdefghijkl")
        line = pair[0].fell(ConfigError("abcdefghijkl is refused")).line
        assert line is not None
        assert "abcdefghijkl" not in line


def test_silence_is_counted_in_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT", 0.01)
    monkeypatch.setattr(pulse, "SILENCE", 5)
    store = HashStore()
    board = Board(store, 0, 2)
    board.lay_out()
    Board(store, 1, 2).leave()
    each = pulse.Pulse(board, "here", str)
    monkeypatch.setattr(each, "_end", lambda failure: each._ended.set())
    each.start()
    time.sleep(0.2)
    assert board.failure() is None  # rank 1 has left, and may be silent
    store.set("beat/1", "7")
    each._thread.join(60)
    failure = board.failure()
    assert failure == Failure(1, "not heard of for 0 s: killed, stopped or cut off", 0, "here")


def test_a_rank_that_cannot_join_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(DistributedError, match="MASTER_ADDR.*torchrun --nproc_per_node"):
        join(0, 2, timedelta(seconds=1))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(DistributedError, match="does this machine reach MASTER_ADDR"):
        join(1, 2, timedelta(seconds=0.2))  # rank 0, which keeps the store, was never started


def test_one_process_meets_nobody() -> None:
    world = World(0, 1, torch.device("cpu"))
    with world.connected({"a": 1}):
        assert world.sum([1.0, 2.0]) == [1.0, 2.0]
    assert [str(world), str(World(1, 8, torch.device("cuda:1")))] == ["cpu", "8 x cuda"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_process_ends_with_its_launcher() -> None:
    child = "from lmkit.cli import main; main(['--version']); print('ready', flush=True); input()"
    parent = textwrap.dedent(f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {child!r}], stdin=subprocess.PIPE)
        print(child.pid, flush=True)
        child.wait()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        env={**os.environ, "TORCHELASTIC_RUN_ID": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as launcher:
        assert launcher.stdout is not None
        said = [launcher.stdout.readline().strip() for _ in range(3)]
        assert "ready" in said
        launcher.kill()
        # the pipe closes when its last writer, the child, is gone
        assert launcher.stdout.read() == ""
