"""A tokenizer must not cost a second and a half of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lmkit.text


def test_tokenizers_and_samples_need_no_torch() -> None:
    script = (
        "import sys\n"
        "from lmkit.text import Byte, Tiktoken, encode_prompt, pack\n"
        "assert Byte().encode('a') == [97]\n"
        "assert 'torch' not in sys.modules and 'rustbpe' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("name", lmkit.text.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(lmkit.text, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Tokeniser'"):
        lmkit.text.Tokeniser  # noqa: B018
