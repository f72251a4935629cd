"""events: numbers and texts for TensorBoard; a folder that cannot be written never stops training.

Events are written with tensorboard's own record writer: `SummaryWriter` needs a thread, and when
that dies of a full disk a later `add_scalar` raises in the training loop.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class EventLog:
    """Writes one event file, from the first event on.

    Args:
        folder: the log directory that TensorBoard is pointed at.
        purge_step: what earlier event files hold from this step on is hidden: the run was resumed
            before it.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        self.folder = folder
        self._purge_step = purge_step
        self._records: Any = None
        self._failed = False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each of the curves `values` names."""
        self._write(step, [{"tag": tag, "simple_value": value} for tag, value in values.items()])

    def text(self, step: int, tag: str, text: str) -> None:
        """Add a text, shown as it is."""
        indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown for verbatim
        plugin = {"plugin_data": {"plugin_name": "text"}}
        tensor = {"dtype": "DT_STRING", "string_val": [indented.encode()]}
        self._write(step, [{"tag": tag, "metadata": plugin, "tensor": tensor}])

    def close(self) -> None:
        """Finish the file."""
        if self._records is not None:
            self._records.close()
            self._records = None

    def _write(self, step: int, values: list[dict[str, Any]]) -> None:
        if self._failed:
            return
        # 0.1 s, at the first event and not before the first step
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        try:
            if self._records is None:
                self._open()
            event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
            self._records.write(event.SerializeToString())
        except OSError as error:
            self._give_up(error)

    def _open(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
            RecordWriter,
        )

        self.folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        # no buffer: TensorBoard sees a step at once, and no byte is left over to fail at the end
        self._records = RecordWriter((self.folder / name).open("wb", buffering=0))
        opening = [Event(wall_time=now, file_version="brain.Event:2")]
        if self._purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            opening.append(Event(wall_time=now, step=self._purge_step, session_log=start))
        for event in opening:
            self._records.write(event.SerializeToString())

    def _give_up(self, error: OSError) -> None:
        self._failed = True
        self.close()
        logger.warning("%s: no more TensorBoard events: %s", self.folder, error)
