"""Runs that are killed at random moments, refused by the disk, or moved to another machine, end as
if nothing had happened: bit-equal weights, optimizers and metrics, and no checkpoint is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.conftest import count

Ask = Callable[[str, int], dict[str, Any]]

pytestmark = pytest.mark.timeout(count(300, 7200))


def test_killed_at_random_moments(ask: Ask) -> None:
    result = ask("kills", count(100, 2000))
    print(
        f"kills survived: {result['killed']}, in {result['finished']} runs, "
        f"{result['while resuming']} of them while it resumed; {result['stages']}"
    )
    assert result["wrong"] == []
    assert result["lost"] == 0
    assert result["killed"] >= count(100, 2000)
    assert {"pretrain", "sft"} <= result["stages"].keys()
    assert result["while resuming"] > 0


def test_refused_by_the_disk_in_the_midst_of_a_run(ask: Ask) -> None:
    result = ask("faults", count(7, 500))
    print(f"faults of the disk in a run: {result['tried']}")
    assert result["wrong"] == []
    assert result["tried"] > count(7, 500) // 2


def test_a_machine_is_lost_with_its_disk(ask: Ask) -> None:
    result = ask("machines", count(2, 200))
    print(f"machines lost: {result['moved']}")
    assert result["wrong"] == []
    assert result["moved"] >= count(2, 200)
