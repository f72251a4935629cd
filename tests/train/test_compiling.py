from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from lmkit.errors import ConfigError
from lmkit.train.compiling import compile_errors, pays_to_compile

CPU = torch.device("cpu")


def test_auto_compiles_what_is_long_enough() -> None:
    for device, least in ((CPU, 2.5e14 * torch.get_num_threads()), (torch.device("cuda"), 1e17)):
        assert not pays_to_compile("auto", device, 0.9 * least)
        assert pays_to_compile("auto", device, 1.1 * least)
        assert pays_to_compile(True, device, 0.0)
        assert not pays_to_compile(False, device, 10 * least)
    assert not pays_to_compile("auto", torch.device("mps"), 1e30)  # nobody has tried


def test_without_a_compiler_auto_says_so_and_a_wish_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "a-compiler")
    with caplog.at_level(logging.WARNING):
        assert not pays_to_compile("auto", CPU, 1e30)
    assert "finds no compiler (c++, g++, clang++): not compiled" in caplog.text
    with pytest.raises(ConfigError, match="finds no compiler.*compile: false"):
        pays_to_compile(True, CPU, 0.0)
    (tmp_path / "a-compiler").touch(mode=0o755)
    assert pays_to_compile(True, CPU, 0.0)


def test_what_torch_cannot_compile_is_told_in_a_line() -> None:
    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> None:
        raise NotImplementedError("no such kernel")

    with pytest.raises(ConfigError, match="torch.compile fails.*no such kernel.*compile=false"):  # noqa: SIM117
        with compile_errors():
            torch.compile(torch.sin, backend=backend)(torch.ones(1))
    with pytest.raises(RuntimeError, match="of its own"), compile_errors():
        raise RuntimeError("an error of its own")
