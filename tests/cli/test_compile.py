from __future__ import annotations

from typing import Any

import pytest

from lmkit.inference.step import Stepper


def test_generate_and_chat_compile_when_they_are_told_to(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards: list[int] = []
    plain = Stepper.__call__

    def counted(stepper: Stepper, *given: Any) -> Any:
        forwards.append(1)
        return plain(stepper, *given)

    monkeypatch.setattr(Stepper, "__call__", counted)
    assert project.train().code == 0
    some = ["-p", "1", "-n", "3", "-t", "0"]
    for words in (["generate", project.run, *some], ["generate", project.run, *some, "-p", "2"]):
        before = project.lmkit(*words)
        assert not forwards
        done = project.lmkit(*words, "--compile")
        assert (done.code, done.out) == (0, before.out)
        assert len(forwards) == 3
        forwards.clear()
    done = project.lmkit("chat", project.run, "-n", "2", "-p", "1", "--compile")
    assert done.code == 0
    assert len(forwards) in (1, 2)
