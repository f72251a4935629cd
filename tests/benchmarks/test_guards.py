"""The benchmark of guards and saves, tiny: what is timed was called; no time is asserted."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import guards
from benchmarks.__main__ import main
from benchmarks.stopwatch import Stopwatch


@pytest.mark.usefixtures("in_turn")
def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "guards.json"
    assert main(["guards", "--smoke", "--json", str(file)]) == 0
    assert "microseconds a step" in capsys.readouterr().out
    rows = json.loads(file.read_text())["rows"]
    saving, without = (row for row in rows if "run" in row)
    for part in (*guards.LOOP, *guards.THREAD):
        assert saving[f"{part} s"] > 0, part
    assert saving["lost %"] > without["lost %"]
    assert without["stall s"] == without["write s"] == without["slower %"] == 0
    times = {row["guard"]: row["microseconds a step"] for row in rows if "guard" in row}
    assert all(times[part] > 0 for part in guards.GUARDS)
    assert times["all of them"] == pytest.approx(sum(times[part] for part in guards.GUARDS))


class Clock:
    """Moves where it is told; `works` may be called in another thread, and by another name."""

    now = 0.0

    def works(self, seconds: float, inside: float = 0.0) -> float:
        self.now += seconds
        if inside:
            self.is_called(inside)
        return seconds

    def is_called(self, seconds: float) -> None:
        self.now += seconds

    @contextmanager
    def goes_around(self) -> Iterator[str]:
        self.now += 1
        yield "given"
        self.now += 2


def test_the_parts_of_a_stopwatch_add_up() -> None:
    clock = Clock()
    watch = Stopwatch(lambda: clock.now)
    names = {"works": "outer", "is_called": "inner", "goes_around": "around"}
    with watch.watching({(Clock, name): part for name, part in names.items()}):
        assert clock.works(3, inside=5) == 3
        other = threading.Thread(target=clock.works, args=(7,))
        other.start()
        other.join()
        with clock.goes_around() as given:
            assert given == "given"
            clock.now += 100  # the block's own time is not that of who goes around it
        with pytest.raises(TypeError):
            clock.works("no number")  # type: ignore[arg-type]
    clock.works(1000)
    assert watch.seconds == {"outer": 10, "inner": 5, "around": 3}
