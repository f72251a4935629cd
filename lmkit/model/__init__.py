"""model: LMBase, what every language model here is, the losses it may use, the Batch it gets."""

from lmkit.model.base import LMBase
from lmkit.model.losses import Loss, linear_cross_entropy, token_loss
from lmkit.model.results import TrainResult
from lmkit.text.batch import Batch

__all__ = ["Batch", "LMBase", "Loss", "TrainResult", "linear_cross_entropy", "token_loss"]
