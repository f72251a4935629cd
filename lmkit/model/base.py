"""base: LMBase, what every language model is; a sentence a method, the work lives next door.

B rows, T tokens a row, V entries of the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, overload

import tiktoken
import torch
from torch import Tensor, nn

from lmkit.errors import DataError, ModelError
from lmkit.inference.sampling import Sampling
from lmkit.inference.step import Stepper
from lmkit.model import generate as generation
from lmkit.model.defaults import default_specs
from lmkit.model.losses import Loss, token_loss
from lmkit.model.recording import recorded, refuse_unknown
from lmkit.model.results import Predictions, TrainResult
from lmkit.model.roles import group_by_role, token_tables
from lmkit.model.trial import check_logits, try_causality, try_forward
from lmkit.nn.cache import Cache
from lmkit.prompts import Completion, Prompt
from lmkit.text.batch import Batch
from lmkit.text.samples import encode_prompts
from lmkit.text.tokenizer import Tiktoken, Tokenizer

PromptLike = str | Mapping[str, Any] | Prompt


class LMBase(nn.Module):
    """The one ancestor above a user's model class.

    A subclass writes `__init__` and `forward(tokens)`: (B, T) int64 -> logits (B, T, V), causal.
    All else is inherited and may be overridden. `forward` may declare two arguments more:
    `cache` (see `make_cache`) and `documents` ((B, T) int32: tokens attend to their own number
    only), and may return a tuple, of which the first is the logits.

    Args:
        tokenizer: a Tokenizer or a tiktoken Encoding; may be set later.
        max_len: tokens the model can see at once.
        name: what the model calls itself; its class's name by default.
        init_kwargs: arguments of the subclass that it hands on; they need not be. What the
            constructor was called with is in `self.init_kwargs` in any case.

    Raises:
        ModelError: no `forward`, or a keyword that no constructor declares.
    """

    init_kwargs: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = recorded(cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | tiktoken.Encoding | None = None,
        max_len: int = 1024,
        name: str | None = None,
        **init_kwargs: Any,
    ) -> None:
        super().__init__()
        refuse_unknown(type(self), init_kwargs)
        if type(self).forward is nn.Module.forward:
            raise ModelError(f"{type(self).__qualname__} has no forward(tokens)")
        declared = inspect.signature(self.forward).parameters
        self.accepts_cache = "cache" in declared
        self.accepts_documents = "documents" in declared
        self.name = name or type(self).__name__
        self.max_len = max_len
        self.tokenizer = tokenizer

    # --- text ---------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What turns text into the ids that this model reads."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer | tiktoken.Encoding | None) -> None:
        if isinstance(tokenizer, tiktoken.Encoding):
            tokenizer = Tiktoken.of(tokenizer)
        if not isinstance(tokenizer, Tokenizer | None):
            raise ModelError(
                f"{type(self).__qualname__}: a {type(tokenizer).__name__} is no tokenizer",
                hint="give a lmkit.text.Tokenizer or a tiktoken.Encoding",
            )
        self._tokenizer = tokenizer
        self._checked = False

    def need_tokenizer(self) -> Tokenizer:
        """The tokenizer; ModelError without one."""
        if self._tokenizer is None:
            raise ModelError(
                f"{type(self).__qualname__} has no tokenizer", hint="set model.tokenizer"
            )
        return self._tokenizer

    @property
    def _n_ids(self) -> int | None:
        return None if self._tokenizer is None else self._tokenizer.vocab_size

    def tokenize(self, prompts: Sequence[PromptLike], include_prompts: bool = True) -> Batch:
        """One prompt a row, on the CPU; of a longer one the first max_len + 1 tokens.

        A prompt that has no token left to train on is named in a warning.

        Raises:
            DataError: no prompts, or one of a wrong form.
        """
        tokenizer = self.need_tokenizer()
        several = _as_prompts(prompts)
        if not several:
            raise DataError("there are no prompts")
        samples = encode_prompts(tokenizer, several, self.max_len, include_prompts)
        return Batch.of(samples, tokenizer.eos, tokenizer.token_bytes)

    # --- learning -----------------------------------------------------------------------------

    def logits(
        self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """`forward`, its result made plain: the logits (B, T, V), with a cache perhaps (B, 1, V).

        Raises:
            ModelError: another shape, fewer logits than the tokenizer has ids, or documents for a
                model that cannot keep them apart.
        """
        given: dict[str, Any] = {}
        if documents is not None:
            if not self.accepts_documents:
                raise ModelError(
                    f"{type(self).__qualname__} cannot keep the documents of a row apart",
                    hint="declare forward(tokens, cache=None, documents=None), or pack one a row",
                )
            given["documents"] = documents
        if cache is not None:
            given["cache"] = cache
        result = self(tokens, **given)
        logits = result[0] if isinstance(result, tuple) else result
        check_logits(self, logits, tokens, cached=cache is not None)
        return logits

    def loss(self, batch: Batch) -> Loss:
        """What training minimises; override it for a fused head or an extra loss.

        An extra loss belongs under `if self.training`: evaluation measures with this method too.
        """
        logits = self._logits_of_ids(batch)
        return Loss(token_loss(logits, batch.targets, batch.weights), batch.count, batch.bytes)

    def log_probs(self, batch: Batch) -> Tensor:
        """The log-probability in nats of each target, given what stands before it: (B, T) float32.

        Holds all logits at once: give it a micro-batch.
        """
        logits = self._logits_of_ids(batch).float()
        chosen = logits.gather(-1, batch.targets[..., None])[..., 0]
        return chosen - logits.logsumexp(dim=-1)

    def train_prompts(
        self, prompts: Sequence[PromptLike] | Batch, include_prompts: bool = True
    ) -> TrainResult:
        """The loss of some prompts, with its graph; `include_prompts` False: of the truths only."""
        self.check()
        batch = prompts if isinstance(prompts, Batch) else self.tokenize(prompts, include_prompts)
        batch = batch.to(self.device)
        predictions = Predictions(len(batch), lambda: self.predict(batch))
        loss = self.loss(batch)
        return TrainResult(predictions, loss.total, loss.count)

    def predict(self, batch: Batch) -> list[str]:
        """A text a row: the likeliest token in place of each trained one, given the true past."""
        tokenizer = self.need_tokenizer()
        batch = batch.to(self.device)
        with torch.no_grad(), self.evaluating():
            likeliest = self._logits_of_ids(batch).argmax(dim=-1)
        rows = zip(likeliest, batch.weights, strict=True)
        return [tokenizer.decode(ids[weights != 0].tolist()) for ids, weights in rows]

    def _logits_of_ids(self, batch: Batch) -> Tensor:
        logits = self.logits(batch.inputs, batch.documents)
        return logits[..., : self._n_ids]  # a padded vocabulary's others are no ids

    # --- writing ------------------------------------------------------------------------------

    def generate_prompts(
        self, prompts: Sequence[PromptLike], max_new_tokens: int | None = None, **sampling: Any
    ) -> list[str]:
        """What the model writes after each prompt; greedy by default.

        `sampling`: the arguments of Sampling (temperature, top_k, top_p, repetition_penalty, ...).
        """
        if max_new_tokens is not None:
            sampling["max_new_tokens"] = max_new_tokens
        return [done.text for done in self.generate(prompts, Sampling(**sampling))]

    @overload
    def generate(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        sampling: Sampling = ...,
        stream: Literal[False] = ...,
        *,
        samples: int = ...,
        seeds: Sequence[int] | None = ...,
        batch_size: int | None = ...,
        lookup: int = ...,
        compile: bool = ...,
    ) -> list[Completion]: ...
    @overload
    def generate(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        sampling: Sampling = ...,
        *,
        stream: Literal[True],
        samples: int = ...,
        seeds: Sequence[int] | None = ...,
        batch_size: int | None = ...,
        lookup: int = ...,
        compile: bool = ...,
    ) -> Iterator[tuple[int, str]]: ...
    def generate(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        sampling: Sampling = Sampling(),
        stream: bool = False,
        *,
        samples: int = 1,
        seeds: Sequence[int] | None = None,
        batch_size: int | None = None,
        lookup: int = 0,
        compile: bool = False,
    ) -> list[Completion] | Iterator[tuple[int, str]]:
        """Continue all prompts; with `stream` give (row, piece of text) early.

        The text has neither the prompt nor special tokens; an empty prompt starts a new document. A
        conversation whose template has marks for tools is written with the calculator at hand.

        Args:
            samples: completions a prompt: rows 0..samples-1 are the first one's. It is read once.
            seeds: one a row. Its draws then depend on that alone, not on `sampling.seed` and the
                row's number.
            batch_size: rows that are written at once; None: all. A row that has ended makes room
                for the next one. What a row says does not depend on it.
            lookup: where a greedy row repeats what stands in it, guess up to so many tokens ahead
                and check them in one step: the same text, sooner if much of it is copied.
            compile: compile the step from token to token, once for all that this model generates;
                pays from some thousand tokens on. See `lmkit.inference.step`.

        Raises:
            ModelError: no tokenizer, logits that do not fit it, another number of seeds, or a model
                whose cache allows no lookup.
            ConfigError: batch_size or lookup out of range, or lookup for rows that are not greedy.
            NumericError: logits that are not finite.
        """
        writing = generation.Writing(
            self,
            _as_prompts(prompts),
            sampling,
            samples,
            seeds,
            batch_size=batch_size,
            lookup=lookup,
            compile=compile,
        )
        return writing.stream() if stream else writing.completions()

    def make_cache(self, batch_size: int, length: int) -> Cache | None:
        """Memory for `batch_size` rows of at most `length` tokens, handed to `forward` as `cache`.

        None: the model has no cache. Generation then recomputes the context at every token.
        """
        return None

    @cached_property
    def stepper(self) -> Stepper:
        """What generates compiled; one for the model's life, for it keeps what it has compiled."""
        return Stepper(self)

    # --- parts --------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU for a model that has none."""
        return next(self.parameters(), torch.empty(0)).device

    def initialize(self, device: torch.device | str) -> None:
        """Called once after the model is made and moved; for what a constructor cannot do."""

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by role: matrices, embeddings, head, scalars; see `roles`."""
        roles = group_by_role(self, self._n_ids)
        return {role: [parameter for _, parameter in named] for role, named in roles.items()}

    def default_optimizers(self, batch_tokens: int, steps: int) -> list[dict[str, Any]]:
        """The specs that `optimizers: auto` stands for: AdamW, by the model's size; see `defaults`.

        Args:
            batch_tokens: tokens of one step.
            steps: of the stage.
        """
        size = max(1, self.scaling_parameter_count())
        return default_specs(size, token_tables(self, self._n_ids, self.max_len))

    def parameter_count(self) -> int:
        """Numbers that are learned, a tied weight counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def scaling_parameter_count(self) -> int:
        """Parameters that multiply every token: matrices and head."""
        groups = self.param_groups()
        return sum(p.numel() for role in ("matrices", "head") for p in groups[role])

    def flops_per_token(self, length: int) -> int:
        """Of training, forward and backward: 6 a parameter that multiplies. Attention comes on top
        and grows with `length`; a model that has it should add it."""
        return 6 * self.scaling_parameter_count()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Dropout and the like off inside; afterwards every module has the mode that it had."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True

    def check(self) -> None:
        """Try the model on two tokens, once: the first second is the time to find a wrong shape.

        Raises:
            ModelError: as `logits`.
            PluginError: `forward` fails; holds its traceback.
        """
        if not self._checked:
            try_forward(self)
            self._checked = True

    def check_causal(self) -> None:
        """Make sure that a token does not change what is predicted before it.

        A model that sees what it shall predict has a wonderful loss and writes nonsense.

        Raises:
            ModelError: it does.
        """
        try_causality(self)


def _as_prompts(given: PromptLike | Sequence[PromptLike]) -> list[Prompt]:
    several = [given] if isinstance(given, str | Mapping | Prompt) else given
    return [Prompt.of(prompt) for prompt in several]
