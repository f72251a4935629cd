"""duration: how long something may take, as a YAML writes it: 90, 30m, 11.5h."""

from __future__ import annotations

import re

from lmkit.errors import ConfigError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?([smhd]?)", re.ASCII)


def to_seconds(value: float | str, key: str) -> float:
    """Seconds of a number, which is of seconds, or of a text such as `45s`, `30m`, `11.5h`, `2d`.

    Args:
        key: what it is the value of, for the error.

    Raises:
        ConfigError: it is no duration, or not above 0.
    """
    match = _DURATION.fullmatch(str(value).strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds <= 0:
        raise ConfigError(
            f"{key} must be a time above 0, not {value!r}", hint="like 90, 30m or 11.5h", key=key
        )
    return seconds
