"""errors: what went wrong, where, and how to mend it; one line each, one exit code each.

The command line prints ``error: at: what; hint`` and leaves with the class's ``exit_code``:
2 bad input, 3 checkpoint, 4 numeric, 5 distributed, 74 input/output, 129 to 143 stopped.
"""

from __future__ import annotations

from collections.abc import Iterable


class LMKitError(Exception):
    """An error that a user can cause and mend.

    Args:
        what: what is wrong, without a full stop.
        hint: how to mend it.
        at: the place, anything with a good ``str``: ``experiments/x.yaml:7``, a path, an override.
            Left out by code that cannot know it; ``build`` adds the line of the YAML.
    """

    exit_code: int = 2

    def __init__(self, what: str, *, hint: str = "", at: object = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.at = at

    def __str__(self) -> str:
        place = "" if self.at is None else str(self.at)
        line = f"{place}: {self.what}" if place else self.what
        return f"{line}; {self.hint}" if self.hint else line


class ConfigError(LMKitError):
    """A YAML file, an override or a constructor's argument is wrong.

    ``key`` names the argument at fault: ``build`` then points at that key's own line.
    """

    def __init__(self, what: str, *, hint: str = "", at: object = None, key: str = "") -> None:
        super().__init__(what, hint=hint, at=at)
        self.key = key


class PluginError(ConfigError):
    """A user's own module fails; ``traceback`` is its part of the stack, shown under the line."""

    def __init__(
        self, what: str, *, hint: str = "", at: object = None, traceback: str = ""
    ) -> None:
        super().__init__(what, hint=hint, at=at)
        self.traceback = traceback


class DataError(LMKitError):
    """A source of text is missing, empty, unreadable or of the wrong shape."""


class TokenizerError(LMKitError):
    """A vocabulary cannot be read, found or used."""


class ModelError(LMKitError):
    """A model breaks its contract: the shape of its logits, its vocabulary, its context."""


class CheckpointError(LMKitError):
    """A checkpoint is incomplete, altered, or of another model."""

    exit_code = 3


class NumericError(LMKitError):
    """A loss, a gradient or a logit is not a finite number."""

    exit_code = 4


class DistributedError(LMKitError):
    """The processes of a run disagree or lost each other."""

    exit_code = 5


class StorageError(LMKitError):
    """A disk is full or refuses to be written."""

    exit_code = 74  # EX_IOERR of sysexits.h


class Stopped(LMKitError):
    """The run was asked to stop and has saved; 130 after Ctrl+C, 143 after SIGTERM, 129 after a
    terminal was closed, 142 when its time was up."""

    def __init__(
        self,
        what: str = "stopped and saved",
        *,
        exit_code: int = 130,
        hint: str = "",
        at: object = None,
    ) -> None:
        super().__init__(what, hint=hint, at=at)
        self.exit_code = exit_code


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's own error, known by its name: torch is not imported here; and for the plain
    RuntimeError that the CPU's allocator raises."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def did_you_mean(word: object, choices: Iterable[str], cutoff: float = 0.7) -> str:
    """``did you mean 'width'?`` for the nearest of ``choices``, or the empty string.

    Args:
        cutoff: how near it must be, from 0 to 1.
    """
    import difflib  # here: most commands end without an error

    # of two that differ in case only the first: a class comes before a function of its name
    by_lower = {choice.lower(): choice for choice in reversed(list(choices))}
    near = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=cutoff)
    return f"did you mean {by_lower[near[0]]!r}?" if near else ""
