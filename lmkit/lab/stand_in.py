"""stand_in: a vocabulary of the right size, for one that is learned from text not yet here."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lmkit.config import Experiment, Spec, build, resolve
from lmkit.data import Source
from lmkit.data.vocabulary import train_tokenizer
from lmkit.errors import ConfigError
from lmkit.text import Tiktoken
from lmkit.text.bpe import SPLIT_PATTERN, write_ranks
from lmkit.text.tokenizer_folder import RANKS_FILE

THIS = f"{__name__}.stand_in"
N_BYTES = 256


@dataclass(frozen=True)
class Learned:
    """An experiment that can be looked at, and what its vocabulary waits for.

    Attributes:
        waits_for: the text that the vocabulary is learned from; None where it can be made now.
    """

    experiment: Experiment
    waits_for: str | None


def with_tokenizer(experiment: Experiment) -> Learned:
    """The experiment, its tokenizer replaced if that would have to download text first."""
    spec = experiment.tokenizer
    if resolve(spec.path, spec.at) is not train_tokenizer:
        return Learned(experiment, None)
    given = spec.args.get("train_on")
    source = build(given, folder=experiment.folder) if isinstance(given, Spec) else None
    if not isinstance(source, Source) or source.available():
        return Learned(experiment, None)
    kept = {key: spec.args[key] for key in ("vocab_size", "pattern", "chat") if key in spec.args}
    other = replace(experiment, tokenizer=Spec(THIS, kept, spec.at, spec.places))
    return Learned(other, source.describe())


def stand_in(
    vocab_size: int,
    pattern: str = SPLIT_PATTERN,
    chat: str | None = "nanochat",
    folder: str | None = None,
) -> Tiktoken:
    """A tokenizer with so many entries, special tokens included; its merges mean nothing.

    Raises:
        ConfigError: there is no room for the bytes and the special tokens.
    """
    with tempfile.TemporaryDirectory(prefix="lmkit-") as place:
        ranks = Path(place, RANKS_FILE)

        def of(count: int) -> Tiktoken:
            write_ranks(dict(zip(_words(), range(count), strict=False)), ranks)
            return Tiktoken(ranks=ranks, pattern=pattern, chat=chat, folder=folder)

        least = of(N_BYTES).vocab_size
        if vocab_size < least:
            raise ConfigError(f"a vocabulary of {vocab_size}", hint=f"the least is {least}")
        return of(vocab_size - least + N_BYTES)


def _words() -> Iterator[bytes]:
    """Every byte, then every pair of bytes, and so on."""
    for length in itertools.count(1):
        yield from map(bytes, itertools.product(range(N_BYTES), repeat=length))
