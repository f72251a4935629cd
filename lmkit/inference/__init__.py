"""inference: from logits to ids, and from ids to more ids; no text here but what a tool reads."""

from lmkit.inference.decode import decode
from lmkit.inference.reader import context_start
from lmkit.inference.rows import Chosen, Rows
from lmkit.inference.sampling import Sampling, sample
from lmkit.inference.tools import ToolUse, calculate

__all__ = [
    "Chosen",
    "Rows",
    "Sampling",
    "ToolUse",
    "calculate",
    "context_start",
    "decode",
    "sample",
]
