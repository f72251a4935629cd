"""nn: the bricks a model author picks from; torch only, and nothing of text or training."""

from lmkit.nn.attention import Mask, attend
from lmkit.nn.cache import Cache, KVCache, StateCache
from lmkit.nn.mlp import relu_squared
from lmkit.nn.norms import rms_norm
from lmkit.nn.offset import offset_keys
from lmkit.nn.precision import activation_dtype
from lmkit.nn.rotary import rotate, rotation

__all__ = [
    "Cache",
    "KVCache",
    "Mask",
    "StateCache",
    "activation_dtype",
    "attend",
    "offset_keys",
    "relu_squared",
    "rms_norm",
    "rotate",
    "rotation",
]
