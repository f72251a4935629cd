"""nanogpt: nanoGPT's model and optimizer, in a loop as its train.py has it; keeps nothing of it.

github.com/karpathy/nanoGPT. What train.py does on a GPU and leaves out on a CPU is an argument:
`bf16` is its best setting made by hand.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import PeerTrainer, cosine, import_from
from benchmarks.shapes import GPT2_HEAD_DIM, NANOGPT_ADAMW, Shape

WARM_UP = 100  # steps
FLOOR = 0.1  # of the rate, at the end
CLIP = 1.0


class NanoGPT(PeerTrainer):
    """nanoGPT in training, with the rates of its train_shakespeare_char.

    Args:
        folder: the checkout.
        bf16: compute in bf16 by autocast.
        steps: over which the rate falls.
    """

    def __init__(
        self, folder: str, rows: str, shape: Shape, *, device: str, bf16: bool, steps: int
    ) -> None:
        super().__init__(rows, shape, device)
        source: Any = import_from(folder, "model")
        self.bf16, self.steps = bf16, steps
        torch.manual_seed(1337)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        config = source.GPTConfig(
            block_size=shape.context,
            vocab_size=shape.vocabulary,
            n_layer=shape.layers,
            n_head=shape.width // shape.head_dim(GPT2_HEAD_DIM),
            n_embd=shape.width,
            dropout=0.0,
            bias=False,
        )
        model = source.GPT(config).to(self.device)
        self.model = model
        self._optimizer = model.configure_optimizers(
            NANOGPT_ADAMW["weight_decay"],
            NANOGPT_ADAMW["lr"],
            tuple(NANOGPT_ADAMW["betas"]),
            self.device.type,
        )
        self._compiled = torch.compile(self.model)

    def learn(self, micro_batches: list[tuple[Tensor, Tensor]]) -> None:
        """Forward, backward, clip, step, and the loss read for the log."""
        for group in self._optimizer.param_groups:
            group["lr"] = NANOGPT_ADAMW["lr"] * self._rate(self.steps_done)
        for inputs, targets in micro_batches:
            with self._precision():
                _, loss = self._compiled(inputs, targets)
                loss = loss / len(micro_batches)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        loss.item()

    def nats(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Its loss is a mean over the counted targets."""
        with self._precision():
            _, loss = self.model(inputs, targets)
        return loss * (targets >= 0).sum()

    def _rate(self, step: int) -> float:
        if step < WARM_UP:
            return (step + 1) / (WARM_UP + 1)
        return cosine((step - WARM_UP) / max(1, self.steps - WARM_UP), FLOOR)

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)
