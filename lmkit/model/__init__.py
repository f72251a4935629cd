"""model: LMBase, what every language model here is, and the losses it may use."""

from lmkit.model.base import LMBase
from lmkit.model.losses import Loss, linear_cross_entropy, token_loss
from lmkit.model.results import TrainResult

__all__ = ["LMBase", "Loss", "TrainResult", "linear_cross_entropy", "token_loss"]
