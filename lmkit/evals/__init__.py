"""evals: how good a model is, in numbers that can be compared."""

from lmkit.evals.bits_per_byte import BitsPerByte, bits_per_byte

__all__ = ["BitsPerByte", "bits_per_byte"]
