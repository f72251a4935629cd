"""huggingface: transformers' generate, and tokenizers' BPE trainer, if they are installed."""

from __future__ import annotations

from typing import Any

from benchmarks.generate import Task
from benchmarks.repeated import Repeated
from benchmarks.tokenizer import stdlib_texts
from lmkit.text.bpe import SPLIT_PATTERN


class Generate(Repeated):
    """`generate` of a model with new weights, greedy, with the cache that it takes by default.

    Args:
        architecture: gpt2, or llama with an MLP of as many weights.
        dtype: of the weights, as torch names it.
    """

    def __init__(self, task: Task, architecture: str, dtype: str) -> None:
        import torch
        import transformers

        torch.manual_seed(1337)
        self.device = task.device
        config = _config(task, architecture)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        self._model: Any = model.to(task.device).eval()
        self._prompts = torch.tensor(task.prompts(), device=task.device)
        self._read = torch.ones_like(self._prompts)
        self._settings = transformers.GenerationConfig(
            max_new_tokens=task.new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        self.work()

    def work(self) -> float:
        """All prompts at once; gives the new tokens."""
        import torch

        with torch.inference_mode():
            rows = self._model.generate(
                self._prompts, attention_mask=self._read, generation_config=self._settings
            )
        new: int = rows[:, self._prompts.shape[1] :].numel()
        return new


class Merges(Repeated):
    """A byte-level BPE learned with the split pattern that lmkit uses."""

    def __init__(self, entries: int, size: int) -> None:
        self._texts = stdlib_texts(None, size)
        self._bytes = sum(len(text.encode()) for text in self._texts)
        self._entries = entries

    def work(self) -> float:
        """The whole vocabulary."""
        self.learn()
        return self._bytes

    def learn(self) -> Any:
        """The tokenizer."""
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
        bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=self._entries, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(self._texts, trainer)
        return tokenizer


def _config(task: Task, architecture: str) -> Any:
    """transformers' configuration of the task's shape."""
    import transformers

    shape = task.shape
    heads = shape.width // shape.head_dim(task.head_dim)
    if architecture == "gpt2":
        return transformers.GPT2Config(
            vocab_size=shape.vocabulary,
            n_positions=shape.context,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=heads,
            bos_token_id=None,
            eos_token_id=None,
        )
    return transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.context,
        hidden_size=shape.width,
        intermediate_size=shape.width * 8 // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        bos_token_id=None,
        eos_token_id=None,
    )
