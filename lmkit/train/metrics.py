"""metrics: what a run measured, on disk and screen; alone in reading a loss off the device.

A number is read one step late: asking for it at once would make the processor wait for the step it
just started.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmkit.checkpoints.durable import storage_errors, sync
from lmkit.model import Loss
from lmkit.train.display import WRITTEN, Display, readable_count, say
from lmkit.train.events import EventLog
from lmkit.train.metrics_file import truncate_after
from lmkit.train.summary import summarize

FILE = "metrics.jsonl"
Value = Tensor | float | int | str | None


class Metrics:
    """A run's numbers: `metrics.jsonl` (a line a step), TensorBoard, the progress line, the table.

    Args:
        folder: the run's; None on the ranks that write nothing.
        resume_step: the step that a resumed run goes on from; later lines are cut off, and hidden
            in TensorBoard. None for a run that begins: what an older one left is dropped.

    Raises:
        StorageError: `metrics.jsonl` cannot be written. TensorBoard's folder only warns.
    """

    def __init__(self, folder: str | Path | None, resume_step: int | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._resume_step = resume_step
        self._display: Display | None = None
        self._stage = ""
        self._full_speed: float | None = None
        self._waiting: tuple[int, _Late] | None = None
        if self.folder is not None:
            self._path = self.folder / FILE
            with storage_errors(self._path):
                self.folder.mkdir(parents=True, exist_ok=True)
                truncate_after(self._path, -1 if resume_step is None else resume_step)
                self._file = self._path.open("ab", buffering=0)
            purge = 0 if resume_step is None else resume_step + 1
            self._events = EventLog(self.folder / "tensorboard", purge)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin_run(self, steps: int, parameters: int, where: str) -> None:
        """Say what is trained, how long and where, or from which step it goes on; of a run that is
        finished nothing."""
        done, about = self._resume_step, f"{readable_count(parameters)} parameters {where}"
        if done is None:
            self.say(f"{self.folder}: {about}, {steps:,} steps")
        elif done < steps:
            self.say(f"{self.folder} goes on from step {done:,} of {steps:,}: {about}")

    def begin_stage(
        self, name: str, steps: int, done: int = 0, full_speed: float | None = None
    ) -> None:
        """From now on steps are of the stage `name`; `done` of its `steps` are made already.

        Args:
            full_speed: tokens a second if all devices did nothing but the model's arithmetic at
                their peak; None where that is not known. `mfu` is a step's share of it.
        """
        self._write_waiting()
        self._stage, self._full_speed = name, full_speed
        if self.folder is not None:
            self._close_display()
            self._display = Display(name, steps, done, full_speed=full_speed)

    def step(
        self,
        step: int,
        loss: Loss,
        *,
        tokens: int,
        seconds: float,
        waited: float = 0.0,
        grad_norm: Tensor | float | None = None,
        rates: Mapping[str, float] | None = None,
        **more: Value,
    ) -> None:
        """Record an optimizer step. Waits for no device.

        Args:
            step: counted since the run began.
            loss: of the global batch, on any device.
            tokens: that the global batch held.
            seconds: that the step took, of which `waited` for data.
            rates: the learning rates, by a name of each.
        """
        if self.folder is None:
            return
        values: dict[str, Value] = {
            "loss": loss.total.detach() / loss.count if loss.count else None,
            "bits_per_byte": loss.total.detach() / math.log(2) / loss.bytes if loss.bytes else None,
            "grad_norm": grad_norm,
            **{f"rate_{name}": rate for name, rate in (rates or {}).items()},
            "tokens": tokens,
            "data": f"{loss.checksum & 0xFFFF_FFFF:08x}",
            "seconds": round(seconds, 6),
            "waited": round(waited, 6),
        }
        if self._full_speed and seconds > 0:
            values["mfu"] = round(tokens / seconds / self._full_speed, 4)
        values.update(more)
        self._add(step, self._stage, values)
        if self._display is not None:
            self._display.pace(tokens, seconds, waited)

    def evaluation(
        self,
        step: int,
        stage: str,
        values: Mapping[str, Value],
        samples: Sequence[tuple[str, str]] = (),
        seconds: float = 0.0,
    ) -> None:
        """Record what was measured on held-out text, as `validation_...` in the step's own line.

        Args:
            samples: (prompt, what the model wrote after it), `samples` in that line; printed and
                shown in TensorBoard as well.
            seconds: that it all took, `evaluation_seconds` in that line.
        """
        if self.folder is None:
            return
        line: dict[str, Any] = {f"validation_{name}": value for name, value in values.items()}
        line["evaluation_seconds"] = round(seconds, 6)
        if samples:
            line["samples"] = [list(sample) for sample in samples]
        self._add(step, stage, line)
        shown = [
            f"{name} {value:.4f}" + (f" ±{values[error]:.4f}" if error in values else "")
            for name, value in values.items()
            if isinstance(value, float) and not name.endswith(("_stderr", "_ended"))
            for error in [f"{name}_stderr"]
        ]
        if shown:
            self.say(f"{stage}, step {step}, validation: {', '.join(shown)}")
        for index, (prompt, text) in enumerate(samples):
            self.say(f"--- {prompt}{WRITTEN}{text}\n---")
            self._events.text(step, f"{stage}/sample {index}", prompt + text)

    def open_line(self) -> dict[str, Any]:
        """The line that may still be added to; empty where nothing is written."""
        return self._waiting[1].read() if self._waiting else {}

    def reopen(self, step: int, line: Mapping[str, Value]) -> None:
        """Take the last line back, so that what is still to be measured after its step joins it.

        Args:
            line: what `open_line` gave.
        """
        if self.folder is not None:
            truncate_after(self._path, step - 1)
            self._waiting = (step, _Late(line))

    def say(self, text: str) -> None:
        """Print a text without tearing the progress line."""
        if self._display is not None:
            self._display.say(text)
        elif self.folder is not None:
            say(text, sys.stderr)

    def flush(self) -> None:
        """Have every line on the disk; called before a checkpoint that these lines lead up to."""
        self._write_waiting()
        if self.folder is not None:
            with storage_errors(self._path):
                sync(self._path)

    def summary(self) -> None:
        """Print a table of what the run did, a row a stage, resumed parts included."""
        self._write_waiting()
        if self.folder is not None:
            self._close_display()
            say(summarize(self._path), sys.stdout)

    def close(self) -> None:
        """Write what is left."""
        self._write_waiting()
        if self.folder is not None:
            self._close_display()
            self._events.close()
            self._file.close()

    def _add(self, step: int, stage: str, values: Mapping[str, Value]) -> None:
        """Start reading the values; write what waits, or join it if it is of the same step."""
        late = _Late({"stage": stage, **values})
        if self._waiting is not None and self._waiting[0] == step:
            late = _Late({**self._waiting[1].read(), **late.read()})
        else:
            self._write_waiting()
        self._waiting = (step, late)

    def _write_waiting(self) -> None:
        if self._waiting is None:
            return
        step, late = self._waiting
        self._waiting = None
        values = late.read()
        with storage_errors(self._path):
            self._file.write(json.dumps({"step": step, **values}).encode() + b"\n")
        stage = values["stage"]
        numbers = {f"{stage}/{key}": v for key, v in values.items() if isinstance(v, float)}
        self._events.scalars(step, numbers)
        if self._display is not None and "loss" in values:
            self._display.show(values["loss"], values["bits_per_byte"], values.get("reward"))

    def _close_display(self) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None


class _Late:
    """Values on their way from the device to the host."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        tensors = [value for value in values.values() if isinstance(value, Tensor)]
        self._values = {
            key: _to_host(value) if isinstance(value, Tensor) else value
            for key, value in values.items()
        }
        self._arrived = None
        if any(tensor.is_cuda for tensor in tensors):
            # .item() would wait for all that is queued by now; this waits for the copies only
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> dict[str, Any]:
        """The values as JSON can hold them: NaN and infinity, which it cannot, become None."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return {key: _plain(value) for key, value in self._values.items()}


def _to_host(tensor: Tensor) -> Tensor:
    # copy: the caller may go on adding to the tensor
    return tensor.detach().to("cpu", non_blocking=tensor.is_cuda, copy=True)


def _plain(value: Value) -> Any:
    number = value.item() if isinstance(value, Tensor) else value
    return None if isinstance(number, float) and not math.isfinite(number) else number
