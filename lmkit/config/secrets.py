"""secrets: takes out of a text what others must not read; knows no file, no log, no network.

Every way by which text leaves a run goes through `redact`: the error line and the traceback, the
log, experiment.json and with it the report. Hidden are what the environment holds under a name like
HF_TOKEN, of which the name is shown instead; the user and the password of an address, and in its
query what is called a key or a token; words in the form of the tokens that are most in use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

HIDDEN = "***"
LEAST = 8  # characters; a shorter value, such as `true`, would be found in many a word

T = TypeVar("T")

_VARIABLE = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|PAT)(?:_|$)", re.I
)
# not every key with "token" in it: a tokenizer's `pad_token` is none, and part of the experiment
_TABLE_KEY = re.compile(
    r"token|(?:\w*_)?(?:api_?key|access_key|secret|secret_key|password|passwd"
    r"|(?:access|api|auth|bearer|hf)_token)",
    re.I,
)
_ADDRESS_USER = re.compile(r"(?<=://)[^\s/?#'\"]+(?=@)")
_ADDRESS_QUERY = re.compile(
    r"([?&;][\w.-]*(?:token|key|secret|passw|sig|credential|auth)[\w.-]*=)[^&;\s'\"#]+", re.I
)
_HEADER = re.compile(r"(\bauthorization['\"]?\s*[:=]\s*['\"]?\w+\s+)[^\s'\"]+", re.I)
_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{20,}|xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{35}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)"
)


def redact(value: T) -> T:
    """The same text without its secrets; in mappings and lists every text, and what a secret's key
    names. Anything else is given back as it is."""
    return _redact(value, _of_environment())


def _of_environment() -> list[tuple[str, str]]:
    """(value, name) of each variable that holds a secret, long ones first."""
    found = [
        (value, name)
        for name, value in os.environ.items()
        if len(value) >= LEAST and _VARIABLE.search(name) and not os.path.exists(value)
    ]
    return sorted(found, key=lambda pair: -len(pair[0]))


def _redact(value: Any, known: list[tuple[str, str]]) -> Any:
    if isinstance(value, str):
        return _redact_text(value, known)
    if isinstance(value, Mapping):
        return {
            key: HIDDEN
            if isinstance(item, str) and item and _TABLE_KEY.fullmatch(str(key))
            else _redact(item, known)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact(item, known) for item in value]
    return value


def _redact_text(text: str, known: list[tuple[str, str]]) -> str:
    for secret, name in known:
        text = text.replace(secret, f"${name}")
    text = _ADDRESS_USER.sub(HIDDEN, text)
    text = _ADDRESS_QUERY.sub(rf"\g<1>{HIDDEN}", text)
    text = _HEADER.sub(rf"\g<1>{HIDDEN}", text)
    return _FORMS.sub(HIDDEN, text)
