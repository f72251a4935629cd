"""tokenizer_folder: what lies in a saved tokenizer's folder; makes none, trusts no path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from lmkit.config.spec import Spec
from lmkit.errors import TokenizerError
from lmkit.text.template import packaged

ABOUT_FILE = "tokenizer.json"
RANKS_FILE = "vocabulary.tiktoken"


class About(NamedTuple):
    """What makes a tokenizer again, and the fingerprint that it is then to have."""

    spec: Spec
    fingerprint: str


def write_about(
    folder: str | Path, class_path: str, settings: dict[str, Any], fingerprint: str
) -> None:
    """Write `tokenizer.json`."""
    about = {"class": class_path, "settings": settings, "fingerprint": fingerprint}
    text = json.dumps(about, indent=2, ensure_ascii=False)
    Path(folder, ABOUT_FILE).write_text(text + "\n", encoding="utf-8")


def read_about(folder: str | Path) -> About:
    """Read it back.

    Raises:
        TokenizerError: it is not there, or says something else.
    """
    file = Path(folder, ABOUT_FILE)
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        return About(Spec(about["class"], about["settings"]), about["fingerprint"])
    except OSError as error:
        raise TokenizerError(f"cannot read the tokenizer: {error.strerror}", at=file) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError("this is not a saved tokenizer", at=file) from error


def refuse_outside(folder: str | Path, spec: Spec) -> None:
    """Refuse settings that lead to a file elsewhere: a checkpoint may be a stranger's.

    Raises:
        TokenizerError: they do.
    """
    ranks, chat = spec.args.get("ranks"), spec.args.get("chat")
    names_a_file = isinstance(chat, str) and "{" not in chat and chat not in packaged()
    for name in (ranks, chat if names_a_file else None):
        if name is not None and (name != Path(str(name)).name or Path(folder, name).is_symlink()):
            raise TokenizerError(
                f"it names a file outside of its folder: {name!r}", at=Path(folder, ABOUT_FILE)
            )
