"""nanochat: nanochat's model and optimizer, in a loop as its base_train.py has it; keeps nothing.

github.com/karpathy/nanochat. Its dtype comes from NANOCHAT_DTYPE, which must be set before it is
imported: the environment of the contestant. Layers see their whole context (window pattern L), as
it advises where there is no FlashAttention 3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import PeerTrainer, cosine, import_from
from benchmarks.shapes import HEAD_DIM, Shape

# defaults of its command line, and its reference model
EMBEDDING_RATE, HEAD_RATE, MATRIX_RATE, SCALAR_RATE = 0.3, 0.008, 0.02, 0.5
DECAY = 0.28
WARM_UP, WARM_DOWN, FLOOR = 40, 0.65, 0.05
REFERENCE_BATCH = 2**19
REFERENCE_LAYERS, REFERENCE_WIDTH = 12, 768
MOMENTUM_STEPS = 400


class Nanochat(PeerTrainer):
    """nanochat in training.

    Args:
        folder: the checkout.
        steps: of the whole training, from which its schedules follow.
        rates: a factor on all the rates that its own rule gives for the batch.
        head_dim: width of a head.
    """

    def __init__(
        self,
        folder: str,
        rows: str,
        shape: Shape,
        *,
        device: str,
        steps: int,
        rates: float = 1.0,
        head_dim: int | None = None,
    ) -> None:
        super().__init__(rows, shape, device)
        self._source: Any = import_from(folder, "nanochat.gpt")
        self._head_dim = shape.head_dim(head_dim or HEAD_DIM)
        self.steps = steps
        torch.manual_seed(42)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        model = self._on_meta(shape.layers, shape.width)
        model.to_empty(device=self.device)
        model.init_weights()
        self.model = model
        self._compiled = torch.compile(model, dynamic=False)
        self._optimizer = self._make_optimizer(model, rates)

    def learn(self, micro_batches: list[tuple[Tensor, Tensor]]) -> None:
        """Forward, backward, its three schedules, step, and the loss read for the log."""
        for inputs, targets in micro_batches:
            loss = self._compiled(inputs, targets)
            (loss / len(micro_batches)).backward()
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self._rate(self.steps_done)
            if group["kind"] == "muon":
                group["momentum"] = self._momentum(self.steps_done)
                group["weight_decay"] = self._decay * cosine(self.steps_done / self.steps, 0.0)
        self._optimizer.step()
        self.model.zero_grad(set_to_none=True)
        loss.item()

    def nats(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The sum that it can be asked for."""
        loss: Tensor = self.model(inputs, targets, loss_reduction="sum")
        return loss

    def _on_meta(self, layers: int, width: int) -> Any:
        heads = width // self._head_dim
        config = self._source.GPTConfig(
            sequence_len=self.shape.context,
            vocab_size=self.shape.vocabulary,
            n_layer=layers,
            n_head=heads,
            n_kv_head=heads,
            n_embd=width,
            window_pattern="L",
        )
        with torch.device("meta"):
            return self._source.GPT(config)

    def _make_optimizer(self, model: Any, rates: float) -> Any:
        """Its rules: rates by the root of the batch, decay by that and against the horizon, which
        is a number of tokens a parameter, the same for its reference model and for this one."""
        batch = math.sqrt(self.shape.batch_tokens / REFERENCE_BATCH)
        reference = self._on_meta(REFERENCE_LAYERS, REFERENCE_WIDTH)
        self._decay = DECAY * batch * _scaling_size(reference) / _scaling_size(model)
        factor = batch * rates
        return model.setup_optimizer(
            unembedding_lr=HEAD_RATE * factor,
            embedding_lr=EMBEDDING_RATE * factor,
            scalar_lr=SCALAR_RATE * factor,
            matrix_lr=MATRIX_RATE * factor,
            weight_decay=self._decay,
        )

    def _rate(self, step: int) -> float:
        down = round(WARM_DOWN * self.steps)
        if step < WARM_UP:
            return (step + 1) / WARM_UP
        if step <= self.steps - down:
            return 1.0
        left = (self.steps - step) / down
        return left + (1 - left) * FLOOR

    def _momentum(self, step: int) -> float:
        """0.85 up to 0.97 over the first 400 steps; down to 0.90 while the rate falls."""
        if step < MOMENTUM_STEPS:
            return 0.85 + (0.97 - 0.85) * step / MOMENTUM_STEPS
        down = round(WARM_DOWN * self.steps)
        done = max(0.0, (step - (self.steps - down)) / down)
        return 0.97 + (0.90 - 0.97) * done


def _scaling_size(model: Any) -> int:
    """Parameters of matrices and head."""
    counts: dict[str, int] = model.num_scaling_params()
    return counts["transformer_matrices"] + counts["lm_head"]
