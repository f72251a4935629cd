"""inference: from logits to ids, and from ids to more ids; no text here."""

from lmkit.inference.decode import context_start, decode
from lmkit.inference.sampling import Sampling, sample

__all__ = ["Sampling", "context_start", "decode", "sample"]
