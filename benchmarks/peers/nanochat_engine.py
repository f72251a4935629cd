"""nanochat_engine: nanochat's Engine in generation (github.com/karpathy/nanochat).

It computes in what NANOCHAT_DTYPE says. Its rows are samples of one prompt: there is no other way
to have several.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.generate import Task
from benchmarks.peers import import_from
from benchmarks.repeated import Repeated


class Generate(Repeated):
    """The Engine over a model with new weights, greedy.

    Args:
        folder: the checkout.
    """

    def __init__(self, task: Task, folder: str) -> None:
        self.device = task.device
        source: Any = import_from(folder, "nanochat.gpt")
        engine: Any = import_from(folder, "nanochat.engine")
        torch.manual_seed(1337)
        shape = task.shape
        heads = shape.width // shape.head_dim(task.head_dim)
        config = source.GPTConfig(
            sequence_len=shape.context,
            vocab_size=shape.vocabulary,
            n_layer=shape.layers,
            n_head=heads,
            n_kv_head=heads,
            n_embd=shape.width,
            window_pattern="L",
        )
        with torch.device("meta"):
            model = source.GPT(config)
        model.to_empty(device=task.device)
        model.init_weights()
        self._engine = engine.Engine(model.eval(), _NoMarks())
        self._prompt = task.prompts()[0]
        self._rows, self._new = len(task.lengths), task.new_tokens
        self.work()

    def work(self) -> float:
        """All rows; gives the new tokens."""
        columns = self._engine.generate(
            self._prompt, num_samples=self._rows, max_tokens=self._new, temperature=0.0
        )
        return sum(len(tokens) for tokens, _ in columns)


class _NoMarks:
    """A tokenizer whose special tokens are no ids of the model: no answer ends before its time."""

    def encode_special(self, name: str) -> int:
        return -1

    def get_bos_token_id(self) -> int:
        return -1
