"""disk: the calls by which a save touches the disk, and where they can be made to fail; knows not
what is written.

`LMKIT_FAULT=save.write:3:kill` ends the process before its third write, as SIGKILL does. In place
of `kill` any name of errno (`enospc`, `eio`) has that call refused. It is there to rehearse what a
disk may do; a variable that is not set costs a look-up.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lmkit.errors import ConfigError, did_you_mean

logger = logging.getLogger(__name__)

VARIABLE = "LMKIT_FAULT"
KILL = "kill"
SAVE = [f"save.{call}" for call in ("mkdir", "open", "write", "fsync", "rename", "unlink", "rmdir")]
COPY = [f"copy.{call}" for call in ("mkdir", "write", "fsync", "rename", "unlink")]  # elsewhere


@dataclass
class Fault:
    """The `at`-th `call` does not happen."""

    call: str
    at: int
    kind: str
    seen: int = 0

    @classmethod
    def of(cls, text: str) -> Fault:
        """Read `save.write:3:kill`.

        Raises:
            ConfigError: there is no such call, number or kind.
        """
        call, _, rest = text.partition(":")
        number, _, kind = rest.partition(":")
        if call not in (*SAVE, *COPY):
            hint = did_you_mean(call, (*SAVE, *COPY)) or f"there are {', '.join((*SAVE, *COPY))}"
            raise ConfigError(f"there is no call {call!r} to fail", hint=hint, at=VARIABLE)
        if not (number.isdecimal() and (kind == KILL or hasattr(errno, kind.upper()))):
            hint = "write CALL:NUMBER:KIND, as in save.write:3:kill or save.fsync:1:eio"
            raise ConfigError(f"{text!r} is no fault", hint=hint, at=VARIABLE)
        return cls(call, int(number), kind)

    def strike(self, call: str) -> None:
        """Count a call that is about to happen; the one that is meant ends here."""
        if call != self.call:
            return
        self.seen += 1
        if self.seen != self.at:
            return
        logger.warning("%s: %s number %d fails: %s", VARIABLE, call, self.at, self.kind)
        if self.kind == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.kind.upper())
        raise OSError(number, os.strerror(number))


_fault = cache(Fault.of)  # one a process: it counts


def touch(call: str) -> None:
    """To be called before each call that alters a disk; here a fault strikes."""
    if text := os.environ.get(VARIABLE):
        _fault(text).strike(call)


def create(path: Path) -> int:
    """Open a new file to be written; there must be none."""
    touch("save.open")
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def write(handle: int, data: memoryview) -> int:
    """Write what fits into one call; gives the bytes written."""
    touch("save.write")
    return os.write(handle, data)


def fsync(handle: int) -> None:
    """Have an open file, or folder, on the disk before going on."""
    touch("save.fsync")
    os.fsync(handle)


def make_folder(path: Path) -> None:
    """Make one folder; there must be none."""
    touch("save.mkdir")
    os.mkdir(path)


def rename(old: Path, new: Path) -> None:
    """Give a file or folder another name, at once."""
    touch("save.rename")
    os.rename(old, new)


def remove_tree(folder: Path) -> None:
    """Delete a folder and all in it, a link but not what it leads to."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for path in [Path(parent, name) for name in (*files, *folders)]:
            if path.is_dir() and not path.is_symlink():
                _remove_folder(path)
            else:
                touch("save.unlink")
                path.unlink()
    _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    touch("save.rmdir")
    folder.rmdir()
