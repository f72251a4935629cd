"""A save in a thread writes what was there when it was asked for, and no failure of it is lost."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmkit.checkpoints import saver as saver_module
from lmkit.checkpoints.contents import CheckpointContents, Snapshot
from lmkit.checkpoints.directory import CheckpointDir
from lmkit.checkpoints.saver import HostMemory, Saver
from lmkit.cli import main
from lmkit.config import load_experiment
from lmkit.errors import Stopped, StorageError
from lmkit.optim import OptimizerSet
from lmkit.text import Byte
from lmkit.train.runner import BasicModelRunner
from lmkit_models.mlp import MLP

CPU = torch.device("cpu")


@pytest.fixture
def model() -> MLP:
    torch.manual_seed(1)
    return MLP(tokenizer=Byte(), embedding_dim=2, window=2, nodes=4, layers=1, max_len=8)


@pytest.fixture
def optimizers(model: MLP) -> OptimizerSet:
    groups = {"all": list(model.named_parameters())}
    made = OptimizerSet.build(groups, [{"class": "torch.optim.AdamW", "lr": 0.1}])
    learn(model, made)
    return made


def learn(model: MLP, optimizers: OptimizerSet) -> None:
    model.loss(model.tokenize(["some text"])).total.backward()
    optimizers.step()
    optimizers.zero_grad()


class Gate:
    """Lets no checkpoint be written before it is opened; tells what was begun and ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.events: list[str] = []
        put = Snapshot.put

        def wait_and_put(snapshot: Snapshot, location: Path) -> None:
            self.events.append(f"begin {snapshot.step}")
            assert self.opened.wait(60)
            put(snapshot, location)
            self.events.append(f"end {snapshot.step}")

        monkeypatch.setattr(Snapshot, "put", wait_and_put)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor file that is begun from now on meets a full disk."""

    def refuse(path: Path, named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lmkit.checkpoints.contents.write_tensors", refuse)


def files(folder: Path) -> dict[str, bytes]:
    """What a run wrote and no clock or address decides."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix == ".safetensors" or path.name in ("state.json", "experiment.json")
    }


def test_what_is_written_is_what_was_there_at_the_call(
    tmp_path: Path, model: MLP, optimizers: OptimizerSet, gate: Gate
) -> None:
    state = {"seen": [1, 2]}
    contents = CheckpointContents(model, optimizers, state=state, step=1, stage="a")
    with Saver(CheckpointDir(tmp_path / "beside"), CPU) as saver:
        (tmp_path / "beside").mkdir()
        (tmp_path / "alone").mkdir()
        gate.opened.set()
        CheckpointDir(tmp_path / "alone").save(contents)
        gate.opened.clear()
        saver.save(contents)
        learn(model, optimizers)  # training goes on
        state["seen"].append(3)
        assert not list((tmp_path / "beside").iterdir())
        gate.opened.set()
    written = files(tmp_path / "beside")
    assert len(written) == 4
    assert written == files(tmp_path / "alone")
    CheckpointDir(tmp_path / "beside").entries()[0].check()


def test_a_second_save_waits_for_the_first_and_its_memory(
    tmp_path: Path, model: MLP, gate: Gate
) -> None:
    with Saver(CheckpointDir(tmp_path), CPU) as saver:
        saver.save(CheckpointContents(model, step=1, stage="a"))
        threading.Timer(0.05, gate.opened.set).start()
        torch.nn.init.ones_(model.head.weight)
        saver.save(CheckpointContents(model, step=2, stage="a"))
    assert gate.events == ["begin 1", "end 1", "begin 2", "end 2"]
    first, second = CheckpointDir(tmp_path).entries()
    assert (first.number, second.number) == (1, 2)
    second.load_weights(model)
    assert bool((model.head.weight == 1).all())
    first.load_weights(model)
    assert not bool((model.head.weight == 1).all())


@pytest.mark.usefixtures("full_disk")
def test_a_failure_is_raised_once_by_whoever_asks_first(tmp_path: Path, model: MLP) -> None:
    contents = CheckpointContents(model, step=1, stage="a")
    saver = Saver(CheckpointDir(tmp_path), CPU)
    for ask in (saver.wait, lambda: saver.save(contents), lambda: check_until_done(saver)):
        saver.save(contents)
        with pytest.raises(StorageError, match=r"00000001-a: cannot be written: No space left"):
            ask()
        saver.check()
        saver.wait()
    assert os.listdir(tmp_path) == []


def check_until_done(saver: Saver) -> None:
    for _ in range(10_000):
        saver.check()
        threading.Event().wait(0.001)


@pytest.mark.usefixtures("full_disk")
def test_the_blocks_end_raises_it_or_says_it_beside_another_error(
    tmp_path: Path, model: MLP, caplog: pytest.LogCaptureFixture
) -> None:
    contents = CheckpointContents(model, step=1, stage="a")
    with pytest.raises(StorageError), Saver(CheckpointDir(tmp_path), CPU) as saver:
        saver.save(contents)
    assert not caplog.text
    with suppress(ZeroDivisionError), Saver(CheckpointDir(tmp_path), CPU) as saver:
        saver.save(contents)
        raise ZeroDivisionError
    assert "the last checkpoint was not saved: " in caplog.text
    assert "No space left" in caplog.text


def test_too_little_room_is_found_before_anything_is_written(
    tmp_path: Path, model: MLP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmkit.checkpoints.durable.free_bytes", lambda path: 10)
    with pytest.raises(StorageError, match=r"a checkpoint needs .* and 10 B are free"):
        CheckpointDir(tmp_path).save(CheckpointContents(model, step=1, stage="a"))
    assert os.listdir(tmp_path) == []


def test_without_memory_for_a_copy_training_waits_and_one_line_says_so(
    tmp_path: Path, model: MLP, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saver_module, "_available", lambda: 100)
    with Saver(CheckpointDir(tmp_path), CPU) as saver:
        saver.reserve(1000)
        for step in (1, 2):
            saver.save(CheckpointContents(model, step=step, stage="a"))
            assert (tmp_path / f"0000000{step}-a").exists()  # there when `save` returns
    assert caplog.text.count("and 100 B are free: training waits while") == 1
    assert [entry.step for entry in CheckpointDir(tmp_path).entries()] == [1, 2]


def test_memory_that_is_refused_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver_module, "_available", lambda: None)
    with pytest.raises(MemoryError, match=r"needs 1048576\.0 TiB of memory, which was refused"):
        HostMemory().reserve(1 << 60)


def test_a_copy_has_the_values_the_kinds_and_the_ties() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    own: dict[str, Tensor] = {
        "transposed": base.T,
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "flags": torch.tensor([True, False, True]),
        "half": torch.randn(5).bfloat16(),
        "empty": torch.empty(0, 3),
        "tied": base.T,
        "learned": torch.nn.Parameter(torch.randn(7)),
    }
    memory = HostMemory()
    copies = memory.copy({"a": own, "b": {"x": base}})
    assert copies["a"].keys() == own.keys()
    for name, tensor in own.items():
        assert copies["a"][name].dtype == tensor.dtype
        assert torch.equal(copies["a"][name], tensor)
        assert copies["a"][name].is_contiguous()
    assert copies["a"]["tied"].data_ptr() == copies["a"]["transposed"].data_ptr()
    base.zero_()
    assert torch.equal(copies["b"]["x"], torch.arange(12.0).reshape(3, 4))
    place = copies["a"]["transposed"].data_ptr()
    assert memory.copy({"a": own, "b": {"x": base}})["a"]["transposed"].data_ptr() == place


# --- a run ------------------------------------------------------------------------------------

SMALL = ["model=lmkit_models.gpt2.GPT2", "model.embedding_dim=16", "model.layers=1",
         "model.heads=2", "model.max_len=16", "model.dropout=0.0"]  # fmt: skip
WORDS = [*SMALL, "stages.pretrain.steps=5", "stages.sft.steps=1", "stages.sft.epochs=null",
         "stages.pretrain.checkpoint.keep=9", "stages.sft.checkpoint.keep=9"]  # fmt: skip


@pytest.fixture
def make_runner(
    experiment_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], BasicModelRunner]:
    """A runner of the tiny experiment, whose run is called by a name."""
    monkeypatch.chdir(tmp_path)

    def make(name: str) -> BasicModelRunner:
        experiment = load_experiment(experiment_file, [*WORDS, f"out={tmp_path / name}"])
        return BasicModelRunner(experiment=experiment, max_batch_size=8, precision="fp32")

    return make


def test_a_run_saves_beside_its_steps_what_it_would_have_saved_between_them(
    make_runner: Callable[[str], BasicModelRunner],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int]] = []
    put = Snapshot.put

    def put_late(snapshot: Snapshot, location: Path) -> None:
        """Not before the run has made another step, where there is one to be made."""
        for _ in range(2_000):
            if beside.progress.step > snapshot.step or snapshot.step >= 5:
                break
            threading.Event().wait(0.005)
        seen.append((snapshot.step, beside.progress.step))
        put(snapshot, location)

    beside = make_runner("beside")
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "put", put_late)
        beside.fit()
    assert [(step, step < now) for step, now in seen] == [
        (2, True), (4, True), (5, False), (6, False),
    ]  # fmt: skip
    between = make_runner("between")
    monkeypatch.setattr(Saver, "save", lambda self, contents: self._directory.save(contents))
    between.fit()
    tensors = {n: c for n, c in files(tmp_path / "beside").items() if n.endswith("tensors")}
    assert len(tensors) == 8
    assert tensors == {n: c for n, c in files(tmp_path / "between").items() if n in tensors}


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("every", [1, 0])
def test_a_failure_ends_the_run_with_one_line_and_exit_code_74(
    experiment_file: Path, capsys: pytest.CaptureFixture[str], every: int
) -> None:
    words = [*WORDS, f"stages.pretrain.checkpoint.every={every}"]
    assert main(["train", str(experiment_file), *words]) == 74
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert "cannot be written: No space left on device" in lines[0]


@pytest.mark.usefixtures("full_disk")
def test_a_failure_ends_the_run_after_the_next_step(
    make_runner: Callable[[str], BasicModelRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner("full")
    step = BasicModelRunner.train_step

    def step_and_join(self: BasicModelRunner, *arguments: Any) -> Any:
        if self.progress.step == 2 and self.saver._thread is not None:
            self.saver._thread.join()
        return step(self, *arguments)

    monkeypatch.setattr(BasicModelRunner, "train_step", step_and_join)
    with pytest.raises(StorageError):
        runner.fit()
    assert runner.progress.step == 3  # not 4, where the next save is due


def test_a_signal_waits_for_the_checkpoint(
    make_runner: Callable[[str], BasicModelRunner], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner("stopped")
    step = BasicModelRunner.train_step

    def step_and_signal(self: BasicModelRunner, *arguments: Any) -> Any:
        if self.progress.step == 2:  # the checkpoint of step 2 is under way
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Timer(0.05, gate.opened.set).start()
        return step(self, *arguments)

    monkeypatch.setattr(BasicModelRunner, "train_step", step_and_signal)
    with pytest.raises(Stopped) as stopped:
        runner.fit()
    assert stopped.value.exit_code == 143
    newest = runner.checkpoints.latest()
    assert newest is not None
    assert newest.step == 3
    assert gate.events == ["begin 2", "end 2", "begin 3", "end 3"]


def test_the_best_is_known_while_it_is_being_written(
    make_runner: Callable[[str], BasicModelRunner], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a wait the second evaluation, a worse one, would be the best that is on the disk."""
    runner = make_runner("best")
    assert runner.experiment is not None
    stage = runner.experiment.stages[0]
    object.__setattr__(stage.checkpoint, "best", "bits_per_byte")
    object.__setattr__(stage.checkpoint, "every", 0)
    object.__setattr__(stage.evaluate, "every", 1)
    found = {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}

    def evaluate(run: Any) -> dict[str, float]:
        if runner.progress.step == 2:
            threading.Timer(0.05, gate.opened.set).start()
        return {"bits_per_byte": found.get(runner.progress.step, 9.0)}

    monkeypatch.setattr(runner, "evaluate", evaluate)
    runner.fit()
    assert [event for event in gate.events if event.startswith("begin")] == [
        "begin 1", "begin 5", "begin 6",
    ]  # fmt: skip
